"""Transcripts as the open evaluations near MagiHuman's compare them, for numbers that are to stand beside theirs.

MagiHuman has published no evaluation code. FastVideo's `audio.wer` (2026) names its normalization after it, and is the
nearest that can be read. Numbers, scripts and spellings stay as they are written, so that `20` for `twenty` and 學 for
学 are errors here: for anything but a comparison with others, `transcripts.normalize` is the better judge.
"""

from __future__ import annotations

import string
import unicodedata

from hh_train.metrics.speech.transcripts import error_unit

COMPATIBLE_VERSION = "magihuman_compat 1"

_DELETED = dict.fromkeys(map(ord, string.punctuation + "，。！？、；：「」『』（）《》【】—…"))


def compatible_units(text: str, language: str) -> list[str]:
    """Characters of Mandarin, Cantonese, Japanese and Korean, words of other languages.

    Compatibility forms and case are leveled; ASCII and common East Asian punctuation is deleted, so that `well-known`
    is one word; quotation marks such as « and ’ stay.
    """
    plain = unicodedata.normalize("NFKC", text).strip().lower().translate(_DELETED)
    return list("".join(plain.split())) if error_unit(language) == "character" else plain.split()
