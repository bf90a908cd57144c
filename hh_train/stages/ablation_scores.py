"""Scores of the rows of an ablation, and their differences on the same prompts and training seeds."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from hh_train.metrics.clip_metric import Score
from hh_train.metrics.comparison.difference import Difference, adjusted_together
from hh_train.metrics.comparison.pooled import (
    PooledDifference,
    PooledScore,
    pooled_difference,
    pooled_score,
    pooled_set_value,
    rows_of,
)
from hh_train.metrics.comparison.scoreboard import compare_sets, score_sets
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurement import ClipMeasurement
from hh_train.metrics.measurer import Measurer

RowClips = Mapping[int, Sequence[ClipMeasurement]]
"""Measurements by training seed."""


@dataclass(frozen=True, kw_only=True)
class RowScorer:
    """Scores rows beside the same real clips."""

    measures: Sequence[Measure]
    measurers: Mapping[str, Measurer]
    real: Sequence[ClipMeasurement]
    seed: int
    """Of the bootstrap."""

    @cached_property
    def _speakers(self) -> dict[str, str]:
        return {clip.key: clip.speaker for clip in self.real if clip.speaker is not None}

    def scores_of_real(self) -> dict[str, Score]:
        """Of the real clips, by measure."""
        return {name: found.score for name, found in self._clip_scores({0: self.real}).items()}

    def scores(self, row: RowClips) -> dict[str, PooledScore]:
        """Over all training seeds of a row, by measure, in the order of the table."""
        found = self._clip_scores(row) | self._set_scores(row)
        return {m.name: found[m.name] for m in self.measures if m.name in found}

    def _clip_scores(self, row: RowClips) -> dict[str, PooledScore]:
        found = {m.name: pooled_score(m.name, row, speakers=self._speakers, seed=self.seed) for m in self.measures}
        return {name: score for name, score in found.items() if score is not None}

    def _set_scores(self, row: RowClips) -> dict[str, PooledScore]:
        by_seed = {s: score_sets(clips, self.real, self.measurers, seed=self.seed) for s, clips in row.items()}
        pooled: dict[str, PooledScore] = {}
        for name in dict.fromkeys(name for found in by_seed.values() for name in found):
            scores = {s: found[name] for s, found in by_seed.items() if name in found}
            known = {s: (score.mean, score.low, score.high) for s, score in scores.items() if score.mean is not None}
            value = pooled_set_value(known)
            if value is not None:
                mean, low, high = value
                counts = {
                    "num_clips": sum(score.num_clips for score in scores.values()),
                    "num_failed": sum(score.num_failed for score in scores.values()),
                }
                pooled[name] = PooledScore(
                    score=Score(mean=mean, low=low, high=high, **counts),
                    by_seed={s: mean for s, (mean, _, _) in known.items()},
                )
        return pooled

    def differences(
        self, first: RowClips, second: RowClips, *, names: Collection[str] | None = None
    ) -> dict[str, PooledDifference]:
        """First minus second by measure, each tested alone; measures without a clip in common are left out.

        Args:
            first: a row.
            second: a row.
            names: measures; None takes all.
        """
        differences: dict[str, PooledDifference] = {}
        for measure in self.measures:
            if names is not None and measure.name not in names:
                continue
            found = pooled_difference(
                rows_of(measure.name, first), rows_of(measure.name, second), speakers=self._speakers, seed=self.seed
            )
            if found is not None:
                differences[measure.name] = found
        differences |= self._set_differences(first, second, names)
        return differences

    def _set_differences(
        self, first: RowClips, second: RowClips, names: Collection[str] | None
    ) -> dict[str, PooledDifference]:
        measurers = {
            owner: measurer
            for owner, measurer in self.measurers.items()
            if names is None or {m.name for m in getattr(measurer, "set_measures", ())} & set(names)
        }
        by_seed = {
            s: compare_sets(first[s], second[s], self.real, measurers) for s in sorted(first.keys() & second.keys())
        }
        pooled: dict[str, PooledDifference] = {}
        for name in dict.fromkeys(name for found in by_seed.values() for name in found):
            if names is not None and name not in names:
                continue
            own = {s: found[name] for s, found in by_seed.items() if name in found}
            known = {s: (d.mean, d.low, d.high) for s, d in own.items() if d.mean is not None}
            value = pooled_set_value(known)
            if value is not None:
                mean, low, high = value
                num_clips = sum(d.num_clips for d in own.values())
                pooled[name] = PooledDifference(
                    difference=Difference(mean=mean, low=low, high=high, num_clips=num_clips),
                    by_seed={s: mean for s, (mean, _, _) in known.items()},
                )
        return pooled


def with_adjusted_p(
    differences: Mapping[str, PooledDifference], measures: Sequence[Measure], *, shown: Collection[str]
) -> dict[str, PooledDifference]:
    """The same, adjusted for being tested together: those of the table that have a better side, those of the table that
    describe, and all others.

    Args:
        differences: by measure.
        measures: all, in the order of the table.
        shown: names of those of the table.
    """
    families: dict[str, list[str]] = {}
    for m in measures:
        if m.name in differences:
            family = "others" if m.name not in shown else "better" if m.better else "describing"
            families.setdefault(family, []).append(m.name)
    adjusted: dict[str, PooledDifference] = {}
    for names in families.values():
        found = adjusted_together({name: differences[name].difference for name in names})
        adjusted |= {name: replace(differences[name], difference=found[name]) for name in names}
    return {m.name: adjusted[m.name] for m in measures if m.name in adjusted}
