"""Measurements of many clips to scores of systems, and to differences between systems on the clips that they share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from hh_train.metrics.clip_metric import ClipMetric, Score
from hh_train.metrics.comparison.bootstrap import Difference, paired_difference, ratio_interval
from hh_train.metrics.cost import GenerationCost
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurement import ClipMeasurement
from hh_train.metrics.motion.weight_free import Motion
from hh_train.metrics.speech.transcripts import is_digit_string, language_code
from hh_train.metrics.speech.wer import SpeechErrorRate
from hh_train.metrics.statistics import Statistics
from hh_train.metrics.sync.lip_sync import LipSync, swapped_correlations

SPEECH = "error_rate"
SWAPPED = "swapped_correlation"


MEASURES: tuple[Measure, ...] = (
    Measure(name=SPEECH, title="speech error", unit="%", scale=100.0, digits=1, better="lower"),
    Measure(name="substitution_rate", title="substitutions", unit="%", scale=100.0, digits=1, better="lower"),
    Measure(name="deletion_rate", title="deletions", unit="%", scale=100.0, digits=1, better="lower"),
    Measure(name="insertion_rate", title="insertions", unit="%", scale=100.0, digits=1, better="lower"),
    Measure(name="within_one_frame", title="in sync within ±1 frame", unit="%", scale=100.0, digits=1, better="higher"),
    Measure(name="zero_lag_correlation", title="mouth-to-sound correlation", better="higher"),
    Measure(name=SWAPPED, title="the same with another clip's sound"),
    Measure(name="absolute_offset_frames", title="distance from sync", unit="frames", better="lower"),
    Measure(name="flicker", title="steadiness (1: still)", digits=4),
    Measure(name="flow", title="flow", unit="short sides/s", digits=3),
    Measure(name="warp_error", title="warp error", digits=4),
    Measure(name="jerk", title="jerk", unit="short sides/s³", digits=0),
    Measure(name="pixel_mean", title="pixel mean", digits=3),
    Measure(name="pixel_std", title="pixel spread", digits=3),
    Measure(name="saturation", title="saturation", digits=3),
    Measure(name="loudness_db", title="loudness", unit="dB", digits=1),
    Measure(name="silence_share", title="silence", unit="%", scale=100.0, digits=1),
    Measure(name="clipping_share", title="clipped samples", unit="%", scale=100.0, digits=2),
    Measure(name="video_latent_mean", title="video latents: mean", digits=3),
    Measure(name="video_latent_std", title="video latents: spread", digits=3),
    Measure(name="audio_latent_mean", title="audio latents: mean", digits=3),
    Measure(name="audio_latent_std", title="audio latents: spread", digits=3),
    Measure(name="num_function_evaluations", title="model evaluations a clip", digits=0),
    Measure(name="seconds", title="seconds a clip", better="lower"),
)
"""In the order of the table. Slices of the speech error (`error_rate/en digits`) are printed below it."""


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """What a clip was to say."""

    transcript: str
    language: str

    @property
    def slices(self) -> tuple[str, ...]:
        """The parts of the speech error that the clip counts in: its language, and that language's digits or texts."""
        code = language_code(self.language)
        kind = "digits" if is_digit_string(self.transcript, code) else "sentences"
        return code, f"{code} {kind}"


def find_measure(name: str) -> Measure:
    """The measure of a score, also of a slice of the speech error.

    Raises:
        ValueError: for a score that there is not.
    """
    base, _, part = name.partition("/")
    for measure in MEASURES:
        if measure.name == base:
            if not part:
                return measure
            return Measure(
                name=name, title=f"{measure.title}, {part}", unit=measure.unit, scale=measure.scale, digits=1,
                better=measure.better,
            )  # fmt: skip
    raise ValueError(f"there is no measure {name!r}; there are {', '.join(m.name for m in MEASURES)}")


def score_system(
    measurements: Sequence[ClipMeasurement], spoken: Mapping[str, Spoken], *, seed: int
) -> dict[str, Score]:
    """Scores by name, slices of the speech error as `error_rate/<slice>`; those that no clip has are left out.

    Args:
        measurements: of the system's clips, failed ones too.
        spoken: by key, for the clips that have a transcript.
        seed: of the bootstrap draws.
    """
    scores: dict[str, Score] = {}
    classes: tuple[type[ClipMetric], ...] = (SpeechErrorRate, LipSync, Motion, Statistics, GenerationCost)
    for metric_class in classes:
        metric = _fill(metric_class(seed=seed), measurements)
        scores |= metric.compute() if metric.update_called else {}
    for name in _slice_names(spoken.values()):
        members = [m for m in measurements if m.key in spoken and name in spoken[m.key].slices]
        if members:
            scores[f"{SPEECH}/{name}"] = _fill(SpeechErrorRate(seed=seed), members).compute()[SPEECH]
    scores[SWAPPED] = _swapped_score(measurements, seed)
    return {name: score for name, score in scores.items() if score.num_clips}


def _slice_names(spoken: Iterable[Spoken]) -> list[str]:
    """All slices; a language alone is left out where it has one kind of text only, since that says the same."""
    names = {name for item in spoken for name in item.slices}
    return sorted(n for n in names if " " in n or {f"{n} digits", f"{n} sentences"} <= names)


def _fill(metric: ClipMetric, measurements: Sequence[ClipMeasurement]) -> ClipMetric:
    for measured in measurements:
        if isinstance(metric, SpeechErrorRate):
            if measured.errors is not None:
                metric.record_errors(measured.key, measured.errors, failed=measured.failure is not None)
        elif measured.failure is not None:
            metric.record_failure(measured.key)
        else:
            metric.record(measured.key, {name: measured.values.get(name) for name in metric.names})
    return metric


def _swapped_score(measurements: Sequence[ClipMeasurement], seed: int) -> Score:
    """What chance gives: each mouth against the next clip's sound, over the clips whose sync is defined."""
    defined = [m for m in measurements if m.values.get("zero_lag_correlation") is not None]
    values = swapped_correlations(
        [torch.tensor(m.opening) for m in defined], [torch.tensor(m.loudness, dtype=torch.float64) for m in defined]
    )
    if not values:
        return Score(mean=None, low=None, high=None, num_clips=0)
    numbers = torch.tensor(values, dtype=torch.float64)
    low, high = ratio_interval(numbers, torch.ones_like(numbers), seed=seed)
    return Score(mean=float(numbers.mean()), low=low, high=high, num_clips=len(values))


def difference(
    name: str, system: Sequence[ClipMeasurement], base: Sequence[ClipMeasurement], *, seed: int
) -> Difference:
    """System minus base on their common clips."""
    return paired_difference(_rows(name, system), _rows(name, base), seed=seed)


def _rows(name: str, measurements: Sequence[ClipMeasurement]) -> dict[str, tuple[float, float]]:
    """(numerator, denominator) by key, of the clips where the measure is defined."""
    rows: dict[str, tuple[float, float]] = {}
    for measured in measurements:
        if name == SPEECH:
            if measured.errors is not None:
                rows[measured.key] = (float(measured.errors.total), float(measured.errors.reference_units))
        else:
            value = measured.values.get(name)
            if value is not None and math.isfinite(value):
                rows[measured.key] = (value, 1.0)
    return rows


def in_words(found: Difference, measure: Measure, *, system: str, base: str) -> str:
    """What a difference allows to say."""
    if found.mean is None or found.low is None or found.high is None:
        return f"{system} and {base} share no clip on which this is defined"
    if not found.is_significant:
        equal = found.low == found.high
        return f"{'equal' if equal else 'cannot tell apart'} at n = {found.num_clips}"
    direction = "higher" if found.mean > 0 else "lower"
    if measure.better is None:
        return f"{system} is {direction} than {base}"
    return f"{system} is {'better' if direction == measure.better else 'worse'} than {base}"
