"""Figures as words: recognizers write `20` where the transcript has `twenty`, and `427` where it has digits.

A figure does not say how it was read aloud (1984 as a number, as a year, digit by digit), so a text has several
readings, and errors are counted against the one that fits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from typing import Literal

Reading = Literal["cardinal", "counting", "year", "digits", "kana", "telephone"]
"""`counting` is the form before counted things (Mandarin 两, Korean 두); `kana` is Japanese digits in hiragana, and
`telephone` Korean digits with 공 for zero."""

READINGS: Mapping[str, tuple[Reading, ...]] = {
    "zh": ("cardinal", "counting", "digits"),
    "yue": ("cardinal", "counting", "digits"),
    "en": ("cardinal", "year", "digits"),
    "ja": ("cardinal", "digits", "kana"),
    "ko": ("cardinal", "counting", "digits", "telephone"),
    "de": ("cardinal", "year", "digits"),
    "fr": ("cardinal", "digits"),
}
"""How the figures of a text may be read, by language code; the first is the usual way."""

_DIGITS = {
    "zh": "零 一 二 三 四 五 六 七 八 九",
    "yue": "零 一 二 三 四 五 六 七 八 九",
    "en": "zero one two three four five six seven eight nine",
    "ja": "零 一 二 三 四 五 六 七 八 九",
    "ko": "영 일 이 삼 사 오 육 칠 팔 구",
    "de": "null eins zwei drei vier fünf sechs sieben acht neun",
    "fr": "zéro un deux trois quatre cinq six sept huit neuf",
}
_OTHER_DIGITS = {
    "kana": ("ぜろ", "いち", "に", "さん", "よん", "ご", "ろく", "なな", "はち", "きゅう"),
    "telephone": tuple("공일이삼사오육칠팔구"),
}
_POINT = {"zh": "点", "yue": "点", "en": "point", "ja": "点", "ko": "점", "de": "komma", "fr": "virgule"}
_MINUS = {"zh": "负", "yue": "负", "en": "minus", "ja": "マイナス", "ko": "마이너스", "de": "minus", "fr": "moins"}
_AFTER = {
    "zh": {"$": "美元", "€": "欧元", "£": "英镑", "¥": "元"},
    "yue": {"$": "蚊", "€": "欧元", "£": "英镑", "¥": "元"},
    "en": {"%": "percent", "$": "dollars", "€": "euros", "£": "pounds", "¥": "yen"},
    "ja": {"%": "パーセント", "$": "ドル", "€": "ユーロ", "£": "ポンド", "¥": "円"},
    "ko": {"%": "퍼센트", "$": "달러", "€": "유로", "£": "파운드", "¥": "엔"},
    "de": {"%": "prozent", "$": "dollar", "€": "euro", "£": "pfund", "¥": "yen"},
    "fr": {"%": "pour cent", "$": "dollars", "€": "euros", "£": "livres", "¥": "yens"},
}
"""Signs that are spoken behind the number, wherever they are written."""
_BEFORE = {"zh": {"%": "百分之"}, "yue": {"%": "百分之"}}
_DECIMAL_COMMA = frozenset({"de", "fr"})
_LONGEST_NUMBER = 12
"""Digits; longer figures are read one by one."""

_KOREAN_ONES = ("", "한", "두", "세", "네", "다섯", "여섯", "일곱", "여덟", "아홉")
_KOREAN_TENS = ("", "열", "스물", "서른", "마흔", "쉰", "예순", "일흔", "여든", "아흔")
_ORDINALS = {
    "en": r"\b(\d+)(?:st|nd|rd|th)\b",
    "fr": r"\b(\d+)(er|re|ère|e|ème)\b",
}


_GERMAN_DATES = re.compile(
    r"(?:\b(?P<article>\w+)\s+)?(?<![\d.,])(?P<day>\d{1,2})\.\s?(?=(?:jän|jan|feb|mär|apr|mai|jun|jul|aug|sep|okt|nov|dez)"
    r"[a-z]*|jahrhundert)"
)
_GERMAN_ENDINGS = {"der": "", "die": "", "das": ""} | dict.fromkeys(
    ("am", "vom", "zum", "beim", "im", "dem", "den", "des"), "n"
)
_CLOCKS = {
    "fr": r"(?<![\d:])(?P<hour>\d{1,2})(?:\s?h\s?|:(?=\d\d))(?P<minute>\d{2})?(?![\d:]|\w)",
    "de": r"(?<![\d:.,])(?P<hour>\d{1,2})(?::(?P<minute>\d{2})(?![\d:])(?:\s?uhr\b)?|\.(?P<other>\d{2})\s?uhr\b)",
}
_CLOCK = r"(?<![\d:])(?P<hour>\d{1,2}):(?P<minute>\d{2})(?![\d:])"


def has_figures(text: str) -> bool:
    """Whether the text has a decimal digit of any script."""
    return re.search(r"\d", text) is not None


def verbalize(text: str, code: str, reading: Reading = "cardinal") -> str:
    """The text with its figures, and the signs that belong to them, as words.

    Figures behind a letter in English, German and French (`mp3`) are a name's and stay.

    Args:
        text: compatibility-normalized (NFKC) and in lower case.
        code: of the language.
        reading: one of `READINGS[code]`. Where it says nothing about a figure (the counting form of 57 in Mandarin),
            the figure is read as a cardinal.
    """
    if not has_figures(text):
        return text
    text = _join_groups(text, code)
    if code in _ORDINALS:
        text = re.sub(_ORDINALS[code], lambda match: _ordinal(match, code), text)
    if code == "en":
        text = re.sub(r"'?\b(\d+0)'?s\b", lambda match: f" {_decade(int(match[1]))} ", text)
    if code == "de":  # `20-jährig` is one word
        text = re.sub(r"\b(\d+)-?(?=[a-zäöü]{3})", lambda match: f" {_spoken(match[1], code, 'cardinal')}", text)
        text = _GERMAN_DATES.sub(_german_ordinal, text)
    text = _clock(text, code)
    return _number_pattern(code).sub(lambda match: _with_signs(match, code, reading), text)


@cache
def _number_pattern(code: str) -> re.Pattern[str]:
    """A number with its minus, decimals, and signs in front of or behind it."""
    point = "," if code in _DECIMAL_COMMA else r"\."
    decimal = rf"(?<!\d)(?<!\d[.,])(?P<whole>\d+){point}(?P<fraction>\d+)(?!{point}?\d)"
    sign = f"[{''.join(map(re.escape, {**_AFTER[code], **_BEFORE.get(code, {})}))}]"
    minus = r"(?P<minus>(?<!\S)[-\u2212])?"
    name = r"(?P<name>[^\W\d_]+\d\w*)|" if _between_digits(code) else ""
    return re.compile(rf"{name}{minus}(?P<front>{sign}?)\s?(?:{decimal}|(?P<plain>\d+))(?:\s?(?P<back>{sign}))?")


def _join_groups(text: str, code: str) -> str:
    """1,000 and 1.000 and 1 000 as 1000, whichever the language writes."""
    group = {"de": r"\.", "fr": r"[ .]"}.get(code, ",")
    grouped = rf"(?<!\d)(?<!\d[.,])\d{{1,3}}(?:{group}\d{{3}})+(?!\d)"
    return re.sub(grouped, lambda match: re.sub(r"\D", "", match[0]), text)


def _with_signs(match: re.Match[str], code: str, reading: Reading) -> str:
    if match.groupdict().get("name"):
        return match[0]
    if match["plain"] is not None:
        spoken = _spoken(match["plain"], code, reading)
    else:
        separator = _between_digits(code)
        fraction = separator.join(_digit_by_digit(match["fraction"], code))
        spoken = separator.join((_spoken(match["whole"], code, "cardinal"), _POINT[code], fraction))
    before = _MINUS[code] if match["minus"] else ""
    after = ""
    for sign in filter(None, (match["front"], match["back"])):
        before += _BEFORE.get(code, {}).get(sign, "")
        after += _AFTER[code].get(sign, "")
    words = " ".join(filter(None, (before, spoken, after)))
    return f" {words}" if code == "ko" else f" {words} "  # in Korean the particle follows without a space


def _between_digits(code: str) -> str:
    return " " if code in ("en", "de", "fr") else ""


def _spoken(figures: str, code: str, reading: Reading) -> str:
    """A whole number that is not negative."""
    if reading in _OTHER_DIGITS:
        return "".join(_OTHER_DIGITS[reading][int(figure)] for figure in figures)
    by_digit = _digit_by_digit(figures, code)
    if reading == "digits" or len(figures) > _LONGEST_NUMBER or (len(figures) > 1 and int(figures[0]) == 0):
        return _between_digits(code).join(by_digit)
    number = int(figures)
    special = {"counting": _counting, "year": _year}.get(reading)
    return (special(number, code) if special else None) or _CARDINALS[code](number)


def _digit_by_digit(figures: str, code: str) -> list[str]:
    names = _DIGITS[code].split()
    return [names[int(figure)] for figure in figures]


def _counting(number: int, code: str) -> str | None:
    if code == "ko":
        if not 1 <= number <= 99:
            return None
        return "스무" if number == 20 else _KOREAN_TENS[number // 10] + _KOREAN_ONES[number % 10]
    cardinal = _chinese(number)
    return "两" if number == 2 else re.sub("二(?=[百千万亿])", "两", cardinal)


def _year(number: int, code: str) -> str | None:
    return _words(number, code, "year") if 1100 <= number <= 2099 else None


def _chinese(number: int) -> str:
    """Below 10**12, in simplified characters."""
    digits = _DIGITS["zh"].split()
    text, gap = "", False
    for power in range(11, -1, -1):
        digit = number // 10**power % 10
        if digit:
            text += ("零" if gap and text else "") + digits[digit] + ("", "十", "百", "千")[power % 4]
            gap = False
        elif power % 4 or number % 10**power:
            gap = bool(text)
        if power in (4, 8) and number // 10**power % 10**4:
            text += {4: "万", 8: "亿"}[power]
    return re.sub("^一十", "十", text) or "零"


def _ordinal(match: re.Match[str], code: str) -> str:
    number = int(match[1])
    if code == "fr" and number == 1:
        return " premier " if match[2] == "er" else " première "
    return f" {_words(number, code, 'ordinal')} " if number < 10**_LONGEST_NUMBER else match[0]


def _german_ordinal(match: re.Match[str]) -> str:
    """`am 3. Oktober`: the day's number as a word, ending as the word before it asks."""
    article = match["article"]
    ending = _GERMAN_ENDINGS.get(article or "", "r")
    return f"{f'{article} ' if article else ''}{_words(int(match['day']), 'de', 'ordinal')}{ending} "


def _clock(text: str, code: str) -> str:
    """`7:30` (`7h30`, `7.30 Uhr`) as it is read; in Korean the hours are counted: 다섯 시."""
    if code == "ko":
        text = re.sub(r"(?<!\d)(\d{1,2})(?=\s?시(?!간))", lambda match: _korean_hour(int(match[1])), text)
    return re.sub(_CLOCKS.get(code, _CLOCK), lambda match: _time_of_day(match, code), text)


def _korean_hour(hour: int) -> str:
    return (_counting(hour, "ko") if hour <= 12 else None) or _CARDINALS["ko"](hour)


def _time_of_day(match: re.Match[str], code: str) -> str:
    found = match.groupdict()
    written = found["minute"] or found.get("other")
    hour, minute = int(found["hour"]), int(written or 0)
    if hour > 24 or minute > 59:
        return match[0]
    hours, minutes = _CARDINALS[code](hour), _CARDINALS[code](minute) if minute else ""
    if code == "en":
        return f" {hours} {'oh ' if 0 < minute < 10 else ''}{minutes} "
    if code == "de":
        return f" {'ein' if hour == 1 else hours} uhr {minutes} "
    if code == "fr":
        return f" {'une heure' if hour == 1 else f'{hours} heures'} {minutes} "
    if code == "ko":
        return f" {_korean_hour(hour)} 시{f' {minutes} 분' if minute else ''} "
    if code == "ja":
        return f"{hours}時{f'{minutes}分' if minute else ''}"
    filled = ("零" if minute < 10 else "") + minutes
    return f"{hours}点{f'{filled}分' if minute else ''}"


def _decade(number: int) -> str:
    """`1980s` and `80s`."""
    words = _words(number, "en", "year" if 1100 <= number <= 2099 else "cardinal")
    return words[:-1] + "ies" if words.endswith("y") else f"{words}s"


@lru_cache(maxsize=4096)
def _words(number: int, code: str, kind: Literal["cardinal", "ordinal", "year"]) -> str:
    from num2words import num2words  # type: ignore[import-untyped]

    spoken: str = num2words(number, lang=code, to=kind)
    return spoken.lower()


_CARDINALS: Mapping[str, Callable[[int], str]] = {
    "zh": _chinese,
    "yue": _chinese,
    "en": lambda number: _words(number, "en", "cardinal"),
    "ja": lambda number: _words(number, "ja", "cardinal"),
    "ko": lambda number: _words(number, "ko", "cardinal").replace(" ", ""),
    "de": lambda number: _words(number, "de", "cardinal"),
    "fr": lambda number: _words(number, "fr", "cardinal"),
}
