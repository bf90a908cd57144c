"""How transcripts are compared: one spelling per language, and the unit that errors are counted in.

Japanese, Mandarin, Cantonese and Korean write no (dependable) spaces between words, so their errors are counted in
characters; English, German and French errors are counted in words.
"""

from __future__ import annotations

import unicodedata
from typing import Literal

from hh_train import types

_CHARACTER_LANGUAGES = frozenset({"zh", "yue", "ja", "ko"})
_APOSTROPHES = dict.fromkeys(map(ord, "\u2018\u2019\u02bc\u00b4`"), "'")
_SPELLINGS = {"de": {"ß": "ss"}, "fr": {"œ": "oe", "æ": "ae"}}
_DIGIT_WORDS = {
    "zh": "零〇一二三四五六七八九两兩",
    "yue": "零〇一二三四五六七八九兩两",
    "en": "zero oh one two three four five six seven eight nine",
    "ja": "ゼロ れい いち に さん よん し ご ろく なな しち はち きゅう く ぜろ",
    "ko": "공 영 일 이 삼 사 오 육 륙 칠 팔 구",
    "de": "null eins zwei zwo drei vier fünf sechs sieben acht neun",
    "fr": "zéro un deux trois quatre cinq six sept huit neuf",
}


def language_code(language: str) -> str:
    """The code of a language given by code or English name.

    Raises:
        ValueError: for a language that is none of the seven.
    """
    code = types.language_code(language)
    if code is None:
        known = ", ".join(types.LANGUAGE_NAMES)
        raise ValueError(f"language {language!r} is unknown; give one of {known} or its English name")
    return code


def error_unit(language: str) -> Literal["word", "character"]:
    """What errors are counted in."""
    return "character" if language_code(language) in _CHARACTER_LANGUAGES else "word"


def normalize(text: str, language: str) -> str:
    """One spelling for what sounds the same: compatibility forms, case, punctuation and spaces.

    Punctuation becomes a space (`well-known` is two words), but an apostrophe inside a word stays (`don't`), straight.
    Languages counted in characters lose their spaces. Idempotent. Numbers and scripts are left as they are written.
    """
    code = language_code(language)
    text = unicodedata.normalize("NFKC", text.translate(_APOSTROPHES)).translate(_APOSTROPHES).lower()
    text = unicodedata.normalize("NFC", text)
    for written, plain in _SPELLINGS.get(code, {}).items():
        text = text.replace(written, plain)
    kept = "".join(c if c == "'" or _is_spoken(c) else " " for c in text)
    words = [word.strip("'") for word in kept.split()]
    separator = "" if code in _CHARACTER_LANGUAGES else " "
    return separator.join(word for word in words if word)


def _is_spoken(character: str) -> bool:
    """Letters, digits, marks that belong to letters, and the Japanese long-vowel sign (a letter by its category)."""
    return unicodedata.category(character)[0] in "LNM"


def units(text: str, language: str) -> list[str]:
    """The words or characters of a transcript, normalized."""
    plain = normalize(text, language)
    return list(plain) if error_unit(language) == "character" else plain.split()


def is_digit_string(text: str, language: str) -> bool:
    """Whether a transcript says nothing but the digits 0 to 9, in figures or in words."""
    code = language_code(language)
    plain = normalize(text, code)
    if not plain:
        return False
    listed = _DIGIT_WORDS[code]
    words = sorted(listed.split() if " " in listed else list(listed), key=len, reverse=True)
    if error_unit(code) == "word":
        return all(word in words or word.isdigit() for word in plain.split())
    while plain:
        word = next((w for w in words if plain.startswith(w)), plain[0] if plain[0].isdigit() else None)
        if word is None:
            return False
        plain = plain[len(word) :]
    return True
