"""Figures become the words that are said for them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hh_train.metrics.speech.numerals import READINGS, has_figures, verbalize


def said(text: str, code: str, reading: str = "cardinal") -> str:
    return " ".join(verbalize(text, code, reading).split())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "figures", "words"),
    [
        ("en", "20", "twenty"),
        ("en", "3.5", "three point five"),
        ("en", "1,000", "one thousand"),
        ("en", "007", "zero zero seven"),
        ("en", "$20 and 5 %", "twenty dollars and five percent"),
        ("en", "the 21st", "the twenty-first"),
        ("en", "the 1980s and the '70s", "the nineteen eighties and the seventies"),
        ("en", "it is -3", "it is minus three"),
        ("en", "covid-19", "covid- nineteen"),
        ("en", "mp3 and word12", "mp3 and word12"),
        ("de", "21", "einundzwanzig"),
        ("de", "1.000,5", "eintausend komma fünf"),
        ("de", "die 20-jährige", "die zwanzigjährige"),
        ("de", "am 3. oktober, der 1. mai, 2. juni", "am dritten oktober, der erste mai, zweiter juni"),
        ("de", "um 7.30 uhr", "um sieben uhr dreißig"),
        ("fr", "91", "quatre-vingt-onze"),
        ("fr", "1 000 €", "mille euros"),
        ("fr", "le 1er, la 2e", "le premier , la deuxième"),
        ("ko", "21명", "이십일명"),
        ("ja", "1984年", "千九百八十四 年"),
        ("zh", "50%", "百分之 五十"),
        ("zh", "3.14", "三点一四"),
    ],
)
def test_known_numbers(code: str, figures: str, words: str) -> None:
    assert said(figures, code) == words


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "零"), (2, "二"), (10, "十"), (14, "十四"), (20, "二十"), (100, "一百"), (105, "一百零五"),
        (110, "一百一十"), (1005, "一千零五"), (1050, "一千零五十"), (10_000, "一万"), (10_005, "一万零五"),
        (20_103, "二万零一百零三"), (105_000, "十万零五千"), (100_000_001, "一亿零一"),
        (1_234_567_890, "十二亿三千四百五十六万七千八百九十"),
    ],
)  # fmt: skip
def test_chinese_numbers(number: int, words: str) -> None:
    assert said(str(number), "zh") == said(str(number), "yue") == words


def test_a_figure_has_several_readings() -> None:
    assert {r: said("1984", "en", r) for r in READINGS["en"]} == {
        "cardinal": "one thousand, nine hundred and eighty-four",
        "year": "nineteen eighty-four",
        "digits": "one nine eight four",
    }
    assert said("1984", "de", "year") == "neunzehnhundertvierundachtzig"
    assert said("2个", "zh", "counting") == "两 个" and said("2200", "zh", "counting") == "两千两百"
    assert said("20살, 21살, 5명", "ko", "counting") == "스무살, 스물한살, 다섯명"
    assert said("370", "ja", "kana") == "さんななぜろ"
    assert said("57", "zh", "counting") == said("57", "zh") and said("12", "en", "year") == "twelve"


@pytest.mark.parametrize("code", READINGS)
@given(text=st.text(alphabet="0123456789.,-% €$abé有는 ", max_size=20), choice=st.integers(0, 9))
def test_no_free_figure_is_left(code: str, text: str, choice: int) -> None:
    reading = READINGS[code][choice % len(READINGS[code])]
    spoken = verbalize(text, code, reading)
    if code in ("zh", "yue", "ja", "ko"):
        assert not has_figures(spoken)
    assert has_figures(text) or spoken == text
    assert verbalize(spoken, code, reading) == spoken or has_figures(spoken)
