"""Speech error rate: what a recognizer hears in the clip against what the clip was asked to say. No pixels take part.

English, German and French are counted in words (WER), Mandarin, Cantonese, Japanese and Korean in characters (CER). The
rate is micro-averaged: all errors over all reference units. Insertions are errors too, so that the rate may exceed one.
Beside it stand the mean of the clips' rates, which a one-word clip moves as much as a long one, and the share of clips
above one half, which a single repetition loop cannot move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import jiwer

from hh_train.metrics.clip_metric import ClipMetric, Row
from hh_train.metrics.comparison.bootstrap import NUM_RESAMPLES
from hh_train.metrics.speech.transcripts import Unit, readings, units

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


def count_errors(reference: str | None, hypothesis: str, language: str, *, unit: Unit | None = None) -> SpeechErrors:
    """Errors of a hypothesis, both sides normalized for the language.

    Figures may be read aloud in several ways (427, 1984): both sides are taken in the way that leaves fewest errors.

    Args:
        reference: the words that were to be spoken.
        hypothesis: what was heard.
        language: in any usual form.
        unit: what to count in; None for the language's own unit.

    Raises:
        ValueError: when the reference is missing or has no word. Nothing else may take its place.
    """
    if reference is None or not units(reference, language, unit):
        raise ValueError(
            f"the reference transcript is {reference!r}: give the spoken words, or leave the clip out of the score"
        )
    ways = readings((reference, hypothesis), language)
    aligned = [
        align_units(units(reference, language, unit, way), units(hypothesis, language, unit, way)) for way in ways
    ]
    return min(aligned, key=lambda errors: errors.total / errors.reference_units)


def align_units(expected: Sequence[str], heard: Sequence[str]) -> SpeechErrors:
    """Errors of units that need no normalization. Raises ValueError when none are expected."""
    if not expected:
        raise ValueError("got no reference units; errors are counted against at least one")
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
    """Errors, and substitutions, deletions and insertions apart, a reference unit; mean of clips; share above 1/2.

    A clip that could not be read counts as all deletions (rate 1) and is counted as failed: a system must not gain by
    broken files. Languages with different units do not belong into one instance's mean unless the mix is what is
    wanted.

    Args:
        unit: what to count in: `word` for eojeol of Korean; None for each language's own unit.
        num_resamples, seed: of the bootstrap draws.
    """

    names: ClassVar[tuple[str, ...]] = (
        *("error_rate", "substitution_rate", "deletion_rate", "insertion_rate"),
        *("macro_error_rate", "share_above_half"),
    )
    higher_is_better = False

    def __init__(self, *, unit: Unit | None = None, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> None:
        super().__init__(num_resamples=num_resamples, seed=seed)
        self.unit = unit

    def update(
        self, key: str, reference: str, hypothesis: str | None, language: str, *, speaker: str | None = None
    ) -> None:
        """Adds a clip.

        Args:
            key: of the clip.
            reference: the words that were to be spoken.
            hypothesis: what was heard; None when the clip could not be read.
            language: in any usual form.
            speaker: the intervals draw all clips of a speaker together; None draws this one alone.

        Raises:
            ValueError: when the reference has no word.
        """
        errors = count_errors(reference, hypothesis or "", language, unit=self.unit)
        self.record_errors(key, errors, failed=hypothesis is None, speaker=speaker)

    def record_errors(
        self, key: str, errors: SpeechErrors, *, failed: bool = False, speaker: str | None = None
    ) -> None:
        """`update` with errors that are counted already."""
        self.record(key, dict(zip(self.names, rate_rows(errors), strict=True)), failed=failed, speaker=speaker)


def rate_rows(errors: SpeechErrors) -> tuple[Row, Row, Row, Row, Row, Row]:
    """Of one clip: errors, substitutions, deletions and insertions a unit, the clip's rate, and if it is above 1/2."""
    said = float(errors.reference_units)
    rate = errors.total / said
    return (
        Row(float(errors.total), said),
        Row(float(errors.substitutions), said),
        Row(float(errors.deletions), said),
        Row(float(errors.insertions), said),
        Row(rate),
        Row(float(rate > 0.5)),
    )
