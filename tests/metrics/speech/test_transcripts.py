"""One spelling per language, and what counts as digits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hh_train.metrics.speech.transcripts import error_unit, is_digit_string, language_code, normalize, units
from hh_train.types import LANGUAGE_NAMES


@pytest.mark.parametrize(
    ("code", "names"),
    [("zh", ["cmn", "Chinese", "Mandarin", "zh-CN"]), ("de", ["German", "ger", "de_DE"]), ("yue", ["Cantonese"])],
)
def test_names_of_a_language_are_one(code: str, names: list[str]) -> None:
    assert {language_code(name) for name in [code, *names]} == {code}


def test_an_unknown_language_is_named() -> None:
    with pytest.raises(ValueError, match="'Klingon' is unknown"):
        language_code("Klingon")


@pytest.mark.parametrize(
    ("language", "written", "plain"),
    [
        ("en", "Don’t STOP, well-known!", "don't stop well known"),
        ("fr", "« Bonjour », dit-il. Un œuf", "bonjour dit il un oeuf"),
        ("de", "Die Straße", "die strasse"),
        ("zh", "有 的 人，好。", "有的人好"),
        ("ja", "ｺｰﾋｰを 飲む。", "コーヒーを飲む"),
        ("ko", "안녕 하세요?", "안녕하세요"),
    ],
)
def test_known_spellings(language: str, written: str, plain: str) -> None:
    assert normalize(written, language) == plain


@given(st.text(max_size=40), st.sampled_from(list(LANGUAGE_NAMES)))
def test_normalizing_twice_changes_nothing(text: str, language: str) -> None:
    once = normalize(text, language)
    assert normalize(once, language) == once


def test_units_are_words_or_characters() -> None:
    assert [error_unit(code) for code in LANGUAGE_NAMES].count("word") == 3
    assert units("One two.", "English") == ["one", "two"]
    assert units("一 二", "Mandarin") == ["一", "二"]


@pytest.mark.parametrize(
    ("language", "digits", "sentence"),
    [
        ("en", "seven Oh two", "two apples"),
        ("zh", "三 七 零", "三个"),
        ("yue", "三七兩", "三個"),
        ("ja", "さんななゼロ", "さんぽ"),
        ("ko", "삼 칠 공", "사과"),
        ("de", "drei zwo", "drei Äpfel"),
        ("fr", "zéro neuf", "neuf heures"),
    ],
)
def test_digit_strings_are_told_from_sentences(language: str, digits: str, sentence: str) -> None:
    assert is_digit_string(digits, language)
    assert is_digit_string("4 2", language)
    assert not is_digit_string(sentence, language)
    assert not is_digit_string("...", language)
