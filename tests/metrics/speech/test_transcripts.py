"""One spelling per language, and what counts as digits."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hh_train.metrics.speech.numerals import READINGS
from hh_train.metrics.speech.transcripts import (
    error_unit,
    is_digit_string,
    language_code,
    normalize,
    normalizer_fingerprint,
    readings,
    units,
)
from hh_train.types import LANGUAGE_NAMES


@pytest.mark.parametrize(
    ("code", "names"),
    [
        (
            "zh",
            [
                "cmn",
                "Chinese",
                "Mandarin",
                "zh-CN",
                "zh_Hans_CN",
                "Chinese (Mandarin)",
                "Mandarin Chinese",
                "中文",
                "Chinois",
            ],
        ),
        (
            "yue",
            [
                "Cantonese",
                "zh-HK",
                "zh-yue",
                "Chinese (Cantonese)",
                "Cantonese Chinese",
                "粵語",
                "yue-Hant-HK",
                "Chinese (Hong Kong)",
            ],
        ),
        ("en", ["eng", "English", "en-US", "English (US)", "British English", "ＥＮＧＬＩＳＨ"]),
        ("ja", ["jpn", "Japanese", "ja_JP", "日本語", "Japanisch"]),
        ("ko", ["kor", "Korean", "ko-KR", "한국어", "Coréen"]),
        ("de", ["German", "ger", "deu", "de_DE", "Deutsch"]),
        ("fr", ["French", "fre", "fra", "fr-CA", "Français", "français"]),
    ],
)
def test_names_of_a_language_are_one(code: str, names: list[str]) -> None:
    assert {language_code(name) for name in [code, *names]} == {code}


@pytest.mark.parametrize("several", ["English and French", "Mandarin, Cantonese", "Klingon (English, German)"])
def test_two_languages_are_none(several: str) -> None:
    with pytest.raises(ValueError, match="is unknown"):
        language_code(several)


def test_an_unknown_language_is_named() -> None:
    with pytest.raises(ValueError, match="'Klingon' is unknown"):
        language_code("Klingon")


@pytest.mark.parametrize(
    ("language", "written", "plain"),
    [
        ("en", "Don’t STOP, well-known!", "don't stop well known"),
        ("en", "Ｆｕｌｌ　ｗｉｄｔｈ ﬁne", "full width fine"),
        ("en", "Mr. O'Neil’s ‘quoted’ word", "mister o'neil's quoted word"),
        ("en", "a hundred and five, OK?", "one hundred five okay"),
        ("fr", "« Bonjour », dit-il. Un œuf", "bonjour dit il un oeuf"),
        ("fr", "L’été — à 20 heures", "l'été à vingt heures"),
        ("fr", "M. Dupont m'appelle", "monsieur dupont m'appelle"),
        ("en", "seven oh two, oh my", "seven zero two oh my"),
        ("en", "a naïve café", "a naive cafe"),
        ("de", "Die Straße", "die strasse"),
        ("de", "„Einhundert“ Leute", "hundert leute"),
        ("de", "STRASSE, 20-jährig", "strasse zwanzigjährig"),
        ("zh", "有 的 人，好。", "有的人好"),
        ("zh", "學習漢語，看著她", "学习汉语看着她"),
        ("zh", "二〇二四年", "二零二四年"),
        ("zh", "２０個人", "二十个人"),
        ("yue", "佢哋喺裏面衞生", "佢哋喺里面卫生"),
        ("ja", "ｺｰﾋｰを 飲む。", "コーヒーを飲む"),
        ("ja", "「２０」円〜", "二十円"),
        ("ko", "안녕 하세요?", "안녕하세요"),
        ("ko", "20 명", "이십명"),
    ],
)
def test_known_spellings(language: str, written: str, plain: str) -> None:
    assert normalize(written, language) == plain


@pytest.mark.parametrize(
    ("language", "one", "other"),
    [
        ("en", "twenty people", "20 people"),
        ("en", "nineteen eighty-four", "1984"),
        ("en", "four two seven", "427"),
        ("de", "zwanzig", "20"),
        ("de", "Fußball für 5 €", "Fussball für fünf Euro"),
        ("fr", "quatre-vingt-dix-neuf pour cent", "99 %"),
        ("zh", "二百塊", "200块"),
        ("zh", "两个人", "2个人"),
        ("en", "half past, seven oh five", "half past, 7:05"),
        ("de", "acht Uhr dreißig", "8:30 Uhr"),
        ("de", "ein Uhr", "1 Uhr"),
        ("fr", "sept heures trente", "7h30"),
        ("zh", "七點零五分", "7:05"),
        ("zh", "幺幺零", "110"),
        ("ja", "七時三十分", "7:30"),
        ("ko", "열두 시 삼십 분", "12시 30분"),
        ("ko", "일곱 시 삼십 분", "7:30"),
        ("ko", "공일공", "010"),
        ("yue", "廿三", "23"),
        ("yue", "三七零", "370"),
        ("ja", "二十", "20"),
        ("ja", "さんななぜろ", "370"),
        ("ko", "스무살", "20살"),
    ],
)
def test_figures_and_words_meet_on_either_side(language: str, one: str, other: str) -> None:
    ways = readings((one, other), language)
    assert ways == readings((other, one), language)
    assert any(normalize(one, language, way) == normalize(other, language, way) for way in ways)
    assert len(ways) > 1 == len(readings(("no figures here",), language))


def test_the_normalizer_names_what_it_depends_on() -> None:
    assert {"num2words", "opencc"} <= set(normalizer_fingerprint().split())


_TRICKY = st.text(alphabet="0123456789.,:'’-% €ßœa薴著〇幺廿麼裏혼시간ｱﾞ½①mr hundred and one", max_size=30)
_WORDS = st.lists(
    st.sampled_from(
        [
            "oh",
            "one",
            "zero",
            "a",
            "hundred",
            "and",
            "m",
            "3.",
            "mai",
            "7:05",
            "8h",
            "uhr",
            "am",
            "20",
            "시",
            "eins",
            "é",
        ]
    ),
    max_size=8,
).map(" ".join)


@settings(max_examples=300)
@given(st.text(max_size=40) | _TRICKY | _WORDS, st.sampled_from(list(LANGUAGE_NAMES)), st.integers(0, 9))
def test_normalizing_twice_changes_nothing(text: str, language: str, choice: int) -> None:
    way = READINGS[language][choice % len(READINGS[language])]
    once = normalize(text, language, way)
    assert normalize(once, language, way) == once


def test_units_are_words_or_characters() -> None:
    assert [error_unit(code) for code in LANGUAGE_NAMES].count("word") == 3
    assert units("One two.", "English") == ["one", "two"]
    assert units("一 二", "Mandarin") == ["一", "二"]
    assert units("안녕 하세요 20명", "ko", "word") == ["안녕", "하세요", "이십명"]
    assert units("Ab c", "en", "character") == ["a", "b", "c"]


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
