"""How transcripts are compared: one spelling per language, and the unit that errors are counted in.

Japanese, Mandarin, Cantonese and Korean write no (dependable) spaces between words, so their errors are counted in
characters; English, German and French errors are counted in words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import cache
from importlib import metadata
from typing import Any, Literal

from hh_train import types
from hh_train.metrics.speech.numerals import READINGS, Reading, has_figures, verbalize

NORMALIZER_VERSION = "3"
"""Changes whenever a transcript may come out otherwise; error rates of two versions are not comparable."""

Unit = Literal["word", "character"]

_CHARACTER_LANGUAGES = frozenset({"zh", "yue", "ja", "ko"})
_CHINESE = frozenset({"zh", "yue"})
_APOSTROPHES = dict.fromkeys(map(ord, "\u2018\u2019\u02bc\u00b4`"), "'")
_CHINESE_SPELLINGS = {"〇": "零", "著": "着", "妳": "你", "幺": "一", "廿": "二十", "卅": "三十"}
_SPELLINGS = {
    "zh": _CHINESE_SPELLINGS,
    "yue": _CHINESE_SPELLINGS,
    "ja": {"〇": "零"},
    "de": {"ß": "ss"},
    "fr": {"œ": "oe", "æ": "ae"},
}
"""Characters that are written either way."""
_HUNDREDS = "hundred|thousand|million|billion"
_ONES = "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twe|thi|fif|fort|first|sec"
_DIGIT = "zero|one|two|three|four|five|six|seven|eight|nine"


def _zeros(match: re.Match[str]) -> str:
    return match[0].replace("oh", "zero")


_WORDS: dict[str, tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]] = {
    "en": (
        (r"\bmr\b", "mister"),
        (r"\bmrs\b", "missus"),
        (r"\bdr\b", "doctor"),
        (r"\bok\b", "okay"),
        (rf"\ba (?={_HUNDREDS})", "one "),
        (rf"\b({_HUNDREDS}) and (?={_ONES})", r"\1 "),
        (rf"\b(?:oh )+(?=(?:{_DIGIT})\b(?! (?:{_HUNDREDS})))", _zeros),
    ),
    "de": ((r"\beins\b", "ein"), (r"\bdr\b", "doktor"), (r"\bein(hundert|tausend)", r"\1")),
    "fr": ((r"\bmme\b", "madame"), (r"\bdr\b", "docteur"), (r"(?<!')\bm\b(?!')", "monsieur")),
}
"""Words that are written shortened, and numbers that have two ways of being said."""
_DIGIT_WORDS = {
    "zh": "零一二三四五六七八九两",
    "yue": "零一二三四五六七八九两",
    "en": "zero oh one two three four five six seven eight nine",
    "ja": "ゼロ ぜろ れい いち に さん よん し ご ろく なな しち はち きゅう く 零 一 二 三 四 五 六 七 八 九",
    "ko": "공 영 일 이 삼 사 오 육 륙 칠 팔 구",
    "de": "null ein eins zwei zwo drei vier fünf sechs sieben acht neun",
    "fr": "zéro un deux trois quatre cinq six sept huit neuf",
}


def language_code(language: str) -> str:
    """The code of a language given in any usual form (`types.language_code`).

    Raises:
        ValueError: for a language that is none of the seven.
    """
    code = types.language_code(language)
    if code is None:
        known = ", ".join(types.LANGUAGE_NAMES)
        raise ValueError(f"language {language!r} is unknown; give one of {known} or its English name")
    return code


def error_unit(language: str) -> Unit:
    """What errors are counted in."""
    return "character" if language_code(language) in _CHARACTER_LANGUAGES else "word"


def normalize(text: str, language: str, reading: Reading = "cardinal") -> str:
    """One spelling for what sounds the same. Idempotent.

    - Compatibility forms (full-width letters, half-width kana), case, apostrophes, the language's own doubles, and in
      English the accents of words from elsewhere.
    - Figures become words (`numerals.verbalize`), read as `reading` says.
    - Chinese characters become simplified ones, in Cantonese too.
    - Punctuation becomes a space (`well-known` is two words), but an apostrophe inside a word stays (`don't`).
    - Languages counted in characters lose their spaces.
    """
    code = language_code(language)
    words = _spoken_words(text, code, reading)
    if code not in _CHARACTER_LANGUAGES:
        return " ".join(words)
    joined = unicodedata.normalize("NFKC", "".join(words))
    return _simplify(joined) if code in _CHINESE else joined


def units(text: str, language: str, unit: Unit | None = None, reading: Reading = "cardinal") -> list[str]:
    """The words or characters of a transcript, normalized.

    Args:
        unit: what to take apart into; None for the language's own (`error_unit`). Words of Korean are its eojeol.
    """
    if (unit or error_unit(language)) == "character":
        return list(normalize(text, language, reading).replace(" ", ""))
    return _spoken_words(text, language_code(language), reading)


def readings(texts: tuple[str, ...], language: str) -> tuple[Reading, ...]:
    """The ways in which the figures of the texts may have been read aloud; one alone where there are no figures."""
    ways = READINGS[language_code(language)]
    plain = (unicodedata.normalize("NFKC", text) for text in texts)
    return ways if any(has_figures(text) for text in plain) else ways[:1]


def normalizer_fingerprint() -> str:
    """What normalized transcripts depend on."""
    libraries = " ".join(f"{name} {metadata.version(name)}" for name in ("num2words", "opencc"))
    return f"{NORMALIZER_VERSION} {libraries}"


def _spoken_words(text: str, code: str, reading: Reading) -> list[str]:
    text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES)).translate(_APOSTROPHES).lower()
    if code == "en":  # café and cafe
        text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
        text = unicodedata.normalize("NFKC", text)
    text = verbalize(text, code, reading)
    for written, plain in _SPELLINGS.get(code, {}).items():
        text = text.replace(written, plain)
    kept = "".join(c if c == "'" or _is_spoken(c) else " " for c in text)
    plain = " ".join(filter(None, (word.strip("'") for word in kept.split())))
    for pattern, spoken in _WORDS.get(code, ()):
        plain = re.sub(pattern, spoken, plain)
    return unicodedata.normalize("NFKC", plain).split()


def _is_spoken(character: str) -> bool:
    """Letters, digits, marks that belong to letters, and the Japanese long-vowel sign (a letter by its category)."""
    return unicodedata.category(character)[0] in "LNM"


def _simplify(text: str) -> str:
    """Traditional characters, those of Hong Kong too, to simplified ones."""
    for _ in range(3):  # a few characters have a second step
        text, before = str(_converter().convert(text)), text
        if text == before:
            break
    for written, plain in _CHINESE_SPELLINGS.items():
        text = text.replace(written, plain)
    return text


@cache
def _converter() -> Any:
    import opencc

    return opencc.OpenCC("hk2s")


def is_digit_string(text: str, language: str) -> bool:
    """Whether a transcript says nothing but the digits 0 to 9, in figures or in words."""
    code = language_code(language)
    plain = normalize(text, code, "digits")
    if not plain:
        return False
    listed = _DIGIT_WORDS[code]
    words = sorted(listed.split() if " " in listed else list(listed), key=len, reverse=True)
    if error_unit(code) == "word":
        return all(word in words for word in plain.split())
    while plain:
        word = next((w for w in words if plain.startswith(w)), None)
        if word is None:
            return False
        plain = plain[len(word) :]
    return True
