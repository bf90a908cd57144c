"""The spelling of others, with the faults that make it a poor judge."""

from __future__ import annotations

import pytest

from hh_train.metrics.speech.compatible import compatible_units
from hh_train.metrics.speech.transcripts import units


@pytest.mark.parametrize(
    ("language", "written", "expected"),
    [
        ("en", "Don't STOP, well-known!", ["dont", "stop", "wellknown"]),
        ("fr", "« Bonjour », dit-il.", ["«", "bonjour", "»", "ditil"]),
        ("de", "Straße 20", ["straße", "20"]),
        ("Mandarin", "有 的 人，好。Ａ", ["有", "的", "人", "好", "a"]),
        ("yue", "學！", ["學"]),
        ("ko", "안녕 하세요?", list("안녕하세요")),
        ("ja", "「はい」", ["は", "い"]),
        ("en", "...", []),
    ],
)
def test_known_spellings(language: str, written: str, expected: list[str]) -> None:
    assert compatible_units(written, language) == expected


@pytest.mark.parametrize(
    ("language", "one", "other"), [("en", "twenty", "20"), ("yue", "學", "学"), ("de", "Straße", "Strasse")]
)
def test_what_it_takes_for_errors(language: str, one: str, other: str) -> None:
    assert compatible_units(one, language) != compatible_units(other, language)
    assert units(one, language) == units(other, language)
