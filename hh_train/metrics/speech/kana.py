"""Japanese as it sounds: 私 and わたし are the same word, and characters would count three errors for it."""

from __future__ import annotations

import importlib
import importlib.util
import re
import unicodedata
from functools import lru_cache
from importlib import metadata
from typing import Any

from hh_train.metrics.speech.numerals import verbalize
from hh_train.metrics.speech.transcripts import readings
from hh_train.metrics.speech.wer import SpeechErrors, align_units

_SAME_SOUND = str.maketrans("ヲヅヂヮ", "オズジワ")
_VOWEL_ROWS = {
    "ア": "アカサタナハマヤラワガザダバパァャ",
    "イ": "イキシチニヒミリギジビピィ",
    "ウ": "ウクスツヌフムユルグズブプゥュヴ",
    "エ": "エケセテネヘメレゲゼデベペェ",
    "オ": "オコソトノホモヨロゴゾドボポォョ",
}
_LONG = re.compile(
    "|".join(
        [
            *(f"(?<=[{row}]){vowel}" for vowel, row in _VOWEL_ROWS.items()),
            f"(?<=[{_VOWEL_ROWS['オ']}])ウ",
            f"(?<=[{_VOWEL_ROWS['エ']}])イ",
        ]
    )
)
"""A vowel that lengthens the one before it, as コウ, セイ and カア do."""


class KanaReader:
    """Reads Japanese text by the dictionary of Open JTalk, which comes with the package: nothing is fetched.

    Raises:
        ValueError: the package is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("pyopenjtalk") is None:
            raise ValueError("readings of Japanese need the package pyopenjtalk-plus: pip install 'hh-train[japanese]'")

    def read(self, text: str) -> str:
        """Katakana and long-vowel signs only, with particles as they are spoken (は is ワ). Figures are read too."""
        spoken = _read(unicodedata.normalize("NFKC", text).lower())
        letters = "".join(c for c in spoken if "ァ" <= c <= "ヴ" or c == "ー").translate(_SAME_SOUND)
        return re.sub("ー+", "ー", _LONG.sub("ー", letters))

    def count_errors(self, reference: str, hypothesis: str) -> SpeechErrors:
        """Errors in kana, with figures read in the way that leaves fewest.

        Raises:
            ValueError: the reference has no kana.
        """
        ways = [(self.read(reference), self.read(hypothesis))]
        if len(readings((reference, hypothesis), "ja")) > 1:
            digits = (verbalize(unicodedata.normalize("NFKC", t), "ja", "kana") for t in (reference, hypothesis))
            expected, heard = (self.read(text) for text in digits)
            ways.append((expected, heard))
        if not ways[0][0]:
            raise ValueError(f"the reference transcript {reference!r} has nothing that is read in Japanese")
        aligned = [align_units(list(expected), list(heard)) for expected, heard in ways]
        return min(aligned, key=lambda errors: errors.total / errors.reference_units)

    def fingerprint(self) -> str:
        """What the readings depend on."""
        return " ".join(f"{name} {metadata.version(name)}" for name in ("pyopenjtalk-plus", "sudachidict_core"))


@lru_cache(maxsize=4096)
def _read(text: str) -> str:
    if not text.strip():
        return ""
    library: Any = importlib.import_module("pyopenjtalk")
    return str(library.g2p(text, kana=True, join=True))
