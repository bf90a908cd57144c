"""Japanese that sounds the same is the same."""

from __future__ import annotations

import importlib.util

import pytest

from hh_train.metrics.speech.kana import KanaReader
from hh_train.metrics.speech.wer import count_errors

if importlib.util.find_spec("pyopenjtalk") is None:
    pytest.skip("needs pyopenjtalk-plus, the `japanese` extra", allow_module_level=True)


@pytest.fixture(scope="module")
def reader() -> KanaReader:
    return KanaReader()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("私は学生です", "わたしはがくせいです"),
        ("今日は二十日です", "きょうは20日です。"),
        ("一人で三百円", "ひとりで３００円"),
        ("先生", "せんせえ"),
        ("東京", "とうきょう"),
        ("お母さんへ", "おかあさんへ"),
    ],
)
def test_one_word_two_spellings(reader: KanaReader, one: str, other: str) -> None:
    assert reader.read(one) == reader.read(other) != ""
    assert reader.count_errors(one, other).total == 0 < count_errors(one, other, "ja").total


def test_readings_are_katakana_as_spoken(reader: KanaReader) -> None:
    assert reader.read("私は、本を読む！") == "ワタシワホンオヨム"
    assert reader.read("...") == reader.read("") == ""


def test_digits_are_found_in_figures(reader: KanaReader) -> None:
    assert reader.count_errors("さんななぜろ", "370").total == 0
    assert reader.count_errors("さんななぜろ", "371").total == 2


def test_errors_are_counted_in_kana(reader: KanaReader) -> None:
    errors = reader.count_errors("水を飲む", "水を読む")
    assert (errors.substitutions, errors.total, errors.reference_units) == (1, 1, 5)
    with pytest.raises(ValueError, match="nothing that is read"):
        reader.count_errors("!?", "水")


def test_the_reader_says_what_it_depends_on(reader: KanaReader) -> None:
    assert reader.fingerprint().startswith("pyopenjtalk-plus 0.")


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"hh-train\[japanese\]"):
        KanaReader()
