"""Speech error rate: what a recognizer hears in the clip against what the clip was asked to say. No pixels take part.

English, German and French are counted in words (WER), Mandarin, Cantonese, Japanese and Korean in characters (CER). The
rate is micro-averaged: all errors over all reference units. Insertions are errors too, so that the rate may exceed one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jiwer

from hh_train.metrics.clip_metric import ClipMetric, Row
from hh_train.metrics.speech.transcripts import units

_SEPARATOR = "\n"


@dataclass(frozen=True, kw_only=True)
class SpeechErrors:
    """The least edits that turn the reference into the hypothesis, by kind."""

    substitutions: int
    deletions: int
    insertions: int
    reference_units: int
    """Words or characters of the reference."""

    @property
    def total(self) -> int:
        return self.substitutions + self.deletions + self.insertions


def count_errors(reference: str | None, hypothesis: str, language: str) -> SpeechErrors:
    """Errors of a hypothesis, both sides normalized for the language.

    Raises:
        ValueError: when the reference is missing or has no word. Nothing else may take its place.
    """
    expected = units(reference, language) if reference is not None else []
    if not expected:
        raise ValueError(
            f"the reference transcript is {reference!r}: give the spoken words, or leave the clip out of the score"
        )
    heard = units(hypothesis, language)
    if not heard:
        return SpeechErrors(substitutions=0, deletions=len(expected), insertions=0, reference_units=len(expected))
    one_unit_a_word = jiwer.Compose([jiwer.ReduceToListOfListOfWords(word_delimiter=_SEPARATOR)])
    alignment = jiwer.process_words(
        [_SEPARATOR.join(expected)],
        [_SEPARATOR.join(heard)],
        reference_transform=one_unit_a_word,
        hypothesis_transform=one_unit_a_word,
    )
    return SpeechErrors(
        substitutions=alignment.substitutions,
        deletions=alignment.deletions,
        insertions=alignment.insertions,
        reference_units=len(expected),
    )


class SpeechErrorRate(ClipMetric):
    """Errors, and substitutions, deletions and insertions apart, a reference unit.

    A clip that could not be read counts as all deletions (rate 1) and is counted as failed: a system must not gain by
    broken files. Languages with different units do not belong into one instance's mean unless the mix is what is
    wanted.
    """

    names: ClassVar[tuple[str, ...]] = ("error_rate", "substitution_rate", "deletion_rate", "insertion_rate")
    higher_is_better = False

    def update(self, key: str, reference: str, hypothesis: str | None, language: str) -> None:
        """Adds a clip.

        Args:
            key: of the clip.
            reference: the words that were to be spoken.
            hypothesis: what was heard; None when the clip could not be read.
            language: code or English name.

        Raises:
            ValueError: when the reference has no word.
        """
        self.record_errors(key, count_errors(reference, hypothesis or "", language), failed=hypothesis is None)

    def record_errors(self, key: str, errors: SpeechErrors, *, failed: bool = False) -> None:
        """`update` with errors that are counted already."""
        counts = (errors.total, errors.substitutions, errors.deletions, errors.insertions)
        said = float(errors.reference_units)
        rows = {name: Row(float(count), said) for name, count in zip(self.names, counts, strict=True)}
        self.record(key, rows, failed=failed)
