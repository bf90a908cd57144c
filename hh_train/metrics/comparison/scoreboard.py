"""Measurements of many clips to scores of systems, and to differences between systems on the clips that they share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from hh_train.metrics.clip_metric import Row, Score, clip_id, score_rows
from hh_train.metrics.comparison.difference import Difference, adjusted_together, block_of, paired_difference
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurement import ClipMeasurement, FeatureMeasurer
from hh_train.metrics.measurer import Measurer
from hh_train.metrics.speech.transcripts import is_digit_string, language_code, normalize
from hh_train.types import ClipMetadata

_UNDEFINED = (float("nan"), float("nan"))


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """What a clip was to say."""

    transcript: str
    language: str

    @property
    def slices(self) -> tuple[str, ...]:
        """The parts of the scores that the clip counts in: its language, and that language's digits or sentences."""
        code = language_code(self.language)
        kind = "digits" if is_digit_string(self.transcript, code) else "sentences"
        return code, f"{code} {kind}"

    @classmethod
    def of(cls, known: ClipMetadata | None) -> Spoken | None:
        """None where the words or their language are not known, or the transcript has no word."""
        if known is None or not known.transcript or not known.language:
            return None
        try:
            has_words = bool(normalize(known.transcript, known.language))
        except ValueError:  # a language that none of the measures knows
            return None
        return cls(transcript=known.transcript, language=known.language) if has_words else None


@runtime_checkable
class SetMeasurer(Protocol):
    """A measurer that also says something of all clips of a system together: a distance to the reference, chance."""

    def measure_set(
        self, clips: Sequence[ClipMeasurement], reference: Sequence[ClipMeasurement], *, seed: int
    ) -> Mapping[str, Score]:
        """Scores by measure's name, from the features and details of the clips that could be read.

        Args:
            clips: of one system.
            reference: the real clips; the same ones when these themselves are scored.
            seed: of random draws.
        """
        ...


def find_measure(name: str, measures: Sequence[Measure]) -> Measure:
    """The measure of a score, also of a slice (`error_rate/en`).

    Raises:
        ValueError: for a score that there is not.
    """
    base, _, part = name.partition("/")
    for measure in measures:
        if measure.name == base:
            return replace(measure, name=name, title=f"{measure.title}, {part}") if part else measure
    raise ValueError(f"there is no measure {name!r}; there are {', '.join(m.name for m in measures)}")


def score_system(
    clips: Sequence[ClipMeasurement], measures: Sequence[Measure], *, seed: int, num_resamples: int | None = None
) -> dict[str, Score]:
    """Scores by name, those of slices as `measure/slice`; those that were measured on no clip are left out.

    A measure that is undefined on every clip has a score without a mean, which counts them: a system whose mouths never
    move must not look as if nobody had asked.

    Measures that have a better side are also scored by language, where there are several. Rates, whose clips weigh
    different numbers of words, are scored by kind of text too, where a language has several.

    Args:
        clips: measurements of the system's clips, of unreadable ones too.
        measures: what to score.
        seed: of the bootstrap draws.
        num_resamples: bootstrap draws; None takes the usual number.
    """
    scores: dict[str, Score] = {}
    for measure in measures:
        scores[measure.name] = _score(measure.name, clips, seed, num_resamples)
        if measure.better is None:
            continue
        for part in _slices(measure.name, clips):
            members = [clip for clip in clips if part in clip.slices]
            scores[f"{measure.name}/{part}"] = _score(measure.name, members, seed, num_resamples)
    asked = {name for clip in clips for name in clip.values}
    return {n: score for n, score in scores.items() if score.num_clips or n.partition("/")[0] in asked}


def _score(name: str, clips: Sequence[ClipMeasurement], seed: int, num_resamples: int | None) -> Score:
    speakers = {clip.key: clip.speaker for clip in clips if clip.speaker is not None}
    rows = [_pair(clip.values.get(name)) for clip in clips]
    options = {} if num_resamples is None else {"num_resamples": num_resamples}
    return score_rows(
        torch.tensor(rows, dtype=torch.float64).reshape(-1, 2),
        torch.tensor([clip.failure is not None for clip in clips], dtype=torch.bool),
        blocks=torch.tensor([clip_id(block_of(clip.key, speakers)) for clip in clips], dtype=torch.int64),
        seed=seed,
        **options,
    )


def _pair(row: Row | None) -> tuple[float, float]:
    return _UNDEFINED if row is None else (row.numerator, row.denominator)


def _slices(name: str, clips: Sequence[ClipMeasurement]) -> list[str]:
    """The slices that say more than the whole: languages where there are several, a language's kinds likewise."""
    found = sorted({part for clip in clips for part in clip.slices if name in clip.values})
    languages = [part for part in found if " " not in part]
    kinds = {language: [p for p in found if p.startswith(f"{language} ")] for language in languages}
    is_rate = any(row is not None and row.denominator != 1 for row in (clip.values.get(name) for clip in clips))
    listed: list[str] = []
    for language in languages:
        listed += [language] if len(languages) > 1 else []
        listed += kinds[language] if is_rate and len(kinds[language]) > 1 else []
    return listed


def score_sets(
    clips: Sequence[ClipMeasurement],
    reference: Sequence[ClipMeasurement],
    measurers: Mapping[str, Measurer],
    *,
    seed: int,
    prompts: Collection[str] | None = None,
) -> dict[str, Score]:
    """What the measurers say of all clips of a system together; the real clips have no distance from themselves.

    Args:
        clips: of the system.
        reference: the real clips.
        measurers: by name.
        seed: of random draws.
        prompts: distances are over these alone, since those of different numbers of clips cannot be compared; None
            takes all that the system has.
    """
    readable, real = _readable(clips), _readable(reference)
    scores: dict[str, Score] = {}
    for measurer in measurers.values():
        if isinstance(measurer, SetMeasurer):
            scores |= measurer.measure_set(readable, real, seed=seed)
        if isinstance(measurer, FeatureMeasurer) and clips is not reference:
            failed = [clip.key for clip in clips if clip.failure is not None]
            chosen = [clip for clip in readable if prompts is None or clip.key in prompts]
            found = measurer.measure_sets(_features(chosen), _features(real), failed=failed)
            for name, d in found.items():
                counts = {"num_clips": d.num_clips, "num_failed": d.num_failed}
                scores[name] = Score(mean=d.value, low=d.low, high=d.high, **counts)
    return {name: score for name, score in scores.items() if score.num_clips and score.mean is not None}


def compare_sets(
    system: Sequence[ClipMeasurement],
    base: Sequence[ClipMeasurement],
    reference: Sequence[ClipMeasurement],
    measurers: Mapping[str, Measurer],
) -> dict[str, Difference]:
    """Differences of distances from the reference, over the prompts that both systems have; those without are left
    out.
    """
    ours, theirs, real = (_features(_readable(clips)) for clips in (system, base, reference))
    common = ours.keys() & theirs.keys()
    differences: dict[str, Difference] = {}
    for measurer in measurers.values():
        if isinstance(measurer, FeatureMeasurer):
            first, second = ({key: found[key] for key in sorted(common)} for found in (ours, theirs))
            try:
                found = measurer.compare_sets(first, second, real)
            except ValueError:  # too few prompts
                continue
            for name, (mean, low, high) in found.items():
                differences[name] = Difference(mean=mean, low=low, high=high, num_clips=len(common))
    return differences


def _readable(clips: Sequence[ClipMeasurement]) -> list[ClipMeasurement]:
    return [clip for clip in clips if clip.failure is None]


def _features(clips: Sequence[ClipMeasurement]) -> dict[str, Mapping[str, Tensor]]:
    return {clip.key: clip.features for clip in clips if clip.features}


def compare_systems(
    system: Sequence[ClipMeasurement],
    base: Sequence[ClipMeasurement],
    measures: Sequence[Measure],
    *,
    seed: int,
    num_resamples: int | None = None,
) -> dict[str, Difference]:
    """System minus base on their common clips, by measure; measures without a common clip are left out.

    The measures that have a better side are tested together, and so are those that only describe.
    """
    speakers = {clip.key: clip.speaker for clip in base if clip.speaker is not None}
    options = {} if num_resamples is None else {"num_resamples": num_resamples}
    differences: dict[str, Difference] = {}
    for family in ([m for m in measures if m.better], [m for m in measures if not m.better]):
        found = {
            m.name: paired_difference(_rows(m.name, system), _rows(m.name, base), blocks=speakers, seed=seed, **options)
            for m in family
        }
        differences |= adjusted_together({name: one for name, one in found.items() if one.num_clips})
    return differences


def _rows(name: str, clips: Sequence[ClipMeasurement]) -> dict[str, Row]:
    """By key, of the clips where the measure is defined."""
    return {clip.key: row for clip in clips if (row := clip.values.get(name)) is not None}


def different_clips(clip_keys: Mapping[str, Collection[str]]) -> str | None:
    """What the sets of clips have not in common, in words; None when they are the same."""
    everywhere = set.intersection(*(set(keys) for keys in clip_keys.values()))
    parts = []
    for name, keys in clip_keys.items():
        extra = sorted(set(keys) - everywhere)
        if extra:
            parts.append(f"{name} has {len(keys)} clips, {len(extra)} of them not in all (such as {extra[0]})")
        else:
            parts.append(f"{name} has {len(keys)} clips")
    return "; ".join(parts) if any(len(set(keys)) != len(everywhere) for keys in clip_keys.values()) else None
