"""Scores over several training runs of one kind, and differences between two kinds on the same prompts and seeds.

Clips are crossed by two things that repeat: a speaker's clips are alike, and so are those of one training run. The
intervals draw both anew, speakers and training seeds: a clip counts as often as its speaker is drawn, times as often
as its seed is. Owen, "The pigeonhole bootstrap", Annals of Applied Statistics, 2007.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from hh_train.metrics.clip_metric import Row, Score
from hh_train.metrics.comparison.bootstrap import LEAST_BLOCKS, NUM_RESAMPLES, draw_counts, percentiles
from hh_train.metrics.comparison.difference import Difference, block_of
from hh_train.metrics.comparison.significance import can_tell, detectable_difference, swap_test
from hh_train.metrics.measurement import ClipMeasurement

SeedRows = Mapping[int, Mapping[str, Row]]
"""By training seed, then by clip."""
SetValue = tuple[float, float | None, float | None]
"""A number of a set of clips with its interval."""


@dataclass(frozen=True, kw_only=True)
class PooledScore:
    """One measure over all training seeds."""

    score: Score
    by_seed: Mapping[int, float] = field(default_factory=dict)

    @property
    def spread(self) -> float | None:
        """Standard deviation between the training seeds; None with one."""
        return _spread(self.by_seed)


@dataclass(frozen=True, kw_only=True)
class PooledDifference:
    """A difference over the training seeds that both have."""

    difference: Difference
    by_seed: Mapping[int, float] = field(default_factory=dict)

    @property
    def spread(self) -> float | None:
        """Standard deviation between the training seeds; None with one."""
        return _spread(self.by_seed)


def _spread(by_seed: Mapping[int, float]) -> float | None:
    return statistics.stdev(by_seed.values()) if len(by_seed) > 1 else None


def rows_of(measure: str, runs: Mapping[int, Sequence[ClipMeasurement]]) -> dict[int, dict[str, Row]]:
    """Where the measure is defined, by training seed and clip; seeds without any are left out."""
    found = {
        seed: {clip.key: row for clip in clips if (row := clip.values.get(measure)) is not None}
        for seed, clips in runs.items()
    }
    return {seed: rows for seed, rows in found.items() if rows}


def pooled_score(
    measure: str,
    runs: Mapping[int, Sequence[ClipMeasurement]],
    *,
    speakers: Mapping[str, str],
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> PooledScore | None:
    """The score of one measure over the clips of all training seeds; None where no clip has it.

    Args:
        measure: its name.
        runs: measurements by training seed.
        speakers: by clip; a clip without one is drawn alone.
        seed: of the draws.
        num_resamples: draws of the interval.
    """
    rows = rows_of(measure, runs)
    cube, _ = _cube({s: {k: (r.numerator, r.denominator) for k, r in own.items()} for s, own in rows.items()}, speakers)
    total = cube.sum((0, 1))
    if not cube.numel() or float(total[1]) == 0:
        return None
    drawn = _drawn(cube, num_resamples, seed)
    low, high = percentiles(drawn[:, 0] / drawn[:, 1])
    num_clips, clips = sum(map(len, rows.values())), [clip for own in runs.values() for clip in own]
    num_failed = sum(clip.failure is not None for clip in clips)
    num_measured_failures = sum(clip.failure is not None and clip.values.get(measure) is not None for clip in clips)
    score = Score(
        mean=float(total[0] / total[1]),
        low=low,
        high=high,
        num_clips=num_clips,
        num_undefined=len(clips) - num_clips - (num_failed - num_measured_failures),
        num_failed=num_failed,
    )
    return PooledScore(score=score, by_seed=_ratios({s: list(own.values()) for s, own in rows.items()}))


def pooled_difference(
    first: SeedRows,
    second: SeedRows,
    *,
    speakers: Mapping[str, str],
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> PooledDifference | None:
    """First minus second over the clips that both have for the same training seed; None without such clips.

    The p-value is the larger of two: that of swapping the two kinds speaker by speaker, which does not find three
    clips enough, and that of the interval, which knows that training seeds differ.

    Args:
        first: by training seed, then by clip.
        second: likewise.
        speakers: by clip; a clip without one is drawn alone.
        seed: of the draws.
        num_resamples: draws of the interval.
    """
    common = {s: sorted(first[s].keys() & second[s].keys()) for s in sorted(first.keys() & second.keys())}
    common = {s: keys for s, keys in common.items() if keys}
    pairs = {s: {k: _four(first[s][k], second[s][k]) for k in keys} for s, keys in common.items()}
    cube, num_blocks = _cube(pairs, speakers)
    total = cube.sum((0, 1))
    if not cube.numel() or float(total[1]) == 0 or float(total[3]) == 0:
        return None
    drawn = _drawn(cube, num_resamples, seed)
    differences = drawn[:, 0] / drawn[:, 1] - drawn[:, 2] / drawn[:, 3]
    low, high = percentiles(differences)
    blocks = cube.sum(0)
    ours = _ratios({s: [first[s][k] for k in keys] for s, keys in common.items()})
    theirs = _ratios({s: [second[s][k] for k in keys] for s, keys in common.items()})
    found = Difference(
        mean=float(total[0] / total[1] - total[2] / total[3]),
        low=low,
        high=high,
        num_clips=sum(map(len, common.values())),
        num_blocks=num_blocks,
        p_value=max(swap_test(blocks[:, :2], blocks[:, 2:], seed=seed), _interval_p(differences)),
        detectable=detectable_difference(differences) if can_tell(num_blocks) else None,
    )
    return PooledDifference(difference=found, by_seed={s: ours[s] - theirs[s] for s in ours.keys() & theirs.keys()})


def pooled_set_value(by_seed: Mapping[int, SetValue]) -> SetValue | None:
    """The mean over training seeds of what is said of a set of clips, such as a distance.

    The interval is the mean of the seeds' intervals, since they are over the same prompts, and at least as wide as to
    hold the value of every seed.
    """
    if not by_seed:
        return None
    values = [value for value, _, _ in by_seed.values()]
    lows = [low for _, low, _ in by_seed.values() if low is not None]
    highs = [high for _, _, high in by_seed.values() if high is not None]
    mean = statistics.fmean(values)
    if len(lows) < len(values) or len(highs) < len(values):
        return mean, None, None
    return mean, min(statistics.fmean(lows), *values), max(statistics.fmean(highs), *values)


def _four(first: Row, second: Row) -> tuple[float, ...]:
    return first.numerator, first.denominator, second.numerator, second.denominator


def _ratios(rows: Mapping[int, Sequence[Row]]) -> dict[int, float]:
    totals = {s: (sum(r.numerator for r in own), sum(r.denominator for r in own)) for s, own in rows.items()}
    return {s: numerator / denominator for s, (numerator, denominator) in totals.items() if denominator}


def _cube(
    rows: Mapping[int, Mapping[str, tuple[float, ...]]], speakers: Mapping[str, str]
) -> tuple[Float[Tensor, "seeds blocks k"], int]:
    """Sums by training seed and block, and the number of blocks: speakers, or prompts where speakers are too few."""
    keys = sorted({key for own in rows.values() for key in own})
    names = {key: block_of(key, speakers) for key in keys}
    if len(set(names.values())) < LEAST_BLOCKS:
        names = {key: key for key in keys}
    index = {name: i for i, name in enumerate(sorted(set(names.values())))}
    width = next((len(row) for own in rows.values() for row in own.values()), 0)
    cube = torch.zeros(len(rows), len(index), width, dtype=torch.float64)
    for i, own in enumerate(rows.values()):
        for key, row in own.items():
            cube[i, index[names[key]]] += torch.tensor(row, dtype=torch.float64)
    return cube, len(index)


def _drawn(cube: Float[Tensor, "seeds blocks k"], num_resamples: int, seed: int) -> Float[Tensor, "resamples k"]:
    """Sums of draws of blocks and, independently, of training seeds."""
    blocks = draw_counts(cube.shape[1], num_resamples, seed)
    seeds = draw_counts(cube.shape[0], num_resamples, seed + 1)
    return torch.einsum("rb,rs,sbk->rk", blocks, seeds, cube)


def _interval_p(differences: Float[Tensor, " resamples"]) -> float:
    """Twice the share of draws on the rarer side of zero."""
    finite = differences[differences.isfinite()]
    rarer = min(int((finite <= 0).sum()), int((finite >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (finite.numel() + 1))
