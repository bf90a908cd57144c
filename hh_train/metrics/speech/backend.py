"""What every speech recognizer can do, whoever trained it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from hh_train.metrics.speech.transcripts import language_code

SAMPLES_PER_SECOND = 16_000
SILENCE_RMS = 1e-4
"""Nobody speaks in sound that is quieter, and recognizers must not be asked: some invent words for silence."""


@runtime_checkable
class SpeechRecognizer(Protocol):
    """Hears what a clip says."""

    @property
    def languages(self) -> Sequence[str]:
        """Codes of the languages that it knows."""
        ...

    def transcribe(self, waveform: Float[Tensor, " S"], language: str) -> str:
        """The words of mono 16 kHz sound, which is in that language; empty where nobody speaks.

        Raises:
            ValueError: for a language that it does not know.
        """
        ...

    def fingerprint(self) -> str:
        """Equal fingerprints, equal transcripts: of the weights and of how they are decoded."""
        ...


def is_silent(waveform: Float[Tensor, " S"]) -> bool:
    """Whether there is nothing to hear."""
    return not waveform.numel() or float(waveform.float().square().mean().sqrt()) <= SILENCE_RMS


def known_language(language: str, languages: Sequence[str], recognizer: str) -> str:
    """The language's code.

    Args:
        recognizer: its name, for the error's text.

    Raises:
        ValueError: for a language that is not among `languages`.
    """
    code = language_code(language)
    if code not in languages:
        raise ValueError(f"{recognizer} does not know {language!r} but {', '.join(languages)}; take another recognizer")
    return code
