"""Scores of rows of several seeds, of clips and of sets of clips."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from hh_train.metrics.clip_metric import Row
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurement import ClipMeasurement
from hh_train.metrics.measurer import Measured, Sample
from hh_train.stages.ablation_scores import RowScorer, with_adjusted_p

BRIGHT = Measure(name="bright", title="bright", better="higher")
SIZE = Measure(name="size", title="size")
SHIFT = Measure(name="shift", title="shift", better="lower")
NUM_CLIPS = 16


@dataclass(frozen=True)
class MeanShift:
    value: float
    low: float
    high: float
    num_clips: int
    num_failed: int = 0


class Shift:
    """The distance between the means of two sets of features, with an interval of ±0.1."""

    measures: Sequence[Measure] = ()
    set_measures: Sequence[Measure] = (SHIFT,)

    def protocol(self) -> Mapping[str, str]:
        return {}

    def measure(self, sample: Sample) -> Measured:
        return Measured()

    def measure_sets(
        self, generated: Mapping[str, Mapping[str, Tensor]], reference: Mapping[str, Mapping[str, Tensor]], *,
        failed: Collection[str] = (),
    ) -> Mapping[str, MeanShift]:  # fmt: skip
        found = abs(_mean(generated) - _mean(reference))
        return {"shift": MeanShift(found, found - 0.1, found + 0.1, len(generated), len(failed))}

    def compare_sets(
        self, first: Mapping[str, Mapping[str, Tensor]], second: Mapping[str, Mapping[str, Tensor]],
        reference: Mapping[str, Mapping[str, Tensor]],
    ) -> Mapping[str, tuple[float, float | None, float | None]]:  # fmt: skip
        found = abs(_mean(first) - _mean(reference)) - abs(_mean(second) - _mean(reference))
        return {"shift": (found, found - 0.1, found + 0.1)}


def _mean(features: Mapping[str, Mapping[str, Tensor]]) -> float:
    return float(torch.cat([own["x"] for own in features.values()]).mean())


def made(level: float, *, size: float = 1.0) -> list[ClipMeasurement]:
    return [
        ClipMeasurement(
            key=f"{i}",
            values={"bright": Row(level + 0.01 * (i % 3)), "size": Row(size)},
            features={"x": torch.full((1, 1), level)},
            speaker=f"speaker {i}",
        )
        for i in range(NUM_CLIPS)
    ]


@pytest.fixture
def scorer() -> RowScorer:
    return RowScorer(measures=(BRIGHT, SIZE, SHIFT), measurers={"s": Shift()}, real=made(0.0), seed=0)


def test_a_row_is_scored_over_all_of_its_seeds(scorer: RowScorer) -> None:
    found = scorer.scores({0: made(1.0), 1: made(2.0)})
    assert list(found) == ["bright", "size", "shift"]
    assert found["bright"].score.num_clips == 2 * NUM_CLIPS
    assert found["bright"].score.mean == pytest.approx(1.5 + 0.01 * 15 / 16)
    assert found["bright"].spread == pytest.approx(0.5**0.5)
    shift = found["shift"]
    assert (shift.score.mean, shift.score.low, shift.score.high) == pytest.approx((1.5, 1.0, 2.0))
    assert shift.by_seed == pytest.approx({0: 1.0, 1: 2.0}) and shift.score.num_clips == 2 * NUM_CLIPS
    assert list(scorer.scores_of_real()) == ["bright", "size"]


def test_rows_are_paired_seed_by_seed(scorer: RowScorer) -> None:
    """Row minus other is 0.5 in the two seeds that both have; the other's third seed would change that."""
    row, other = {0: made(1.5), 1: made(2.5)}, {0: made(1.0), 1: made(2.0), 2: made(50.0)}
    found = scorer.differences(row, other)
    assert found["bright"].difference.mean == pytest.approx(0.5) and found["bright"].difference.is_significant
    assert found["shift"].difference.mean == pytest.approx(0.5)
    assert found["shift"].by_seed == pytest.approx({0: 0.5, 1: 0.5}) and found["shift"].difference.low == 0.4
    assert found["size"].difference.mean == 0 and not found["size"].difference.is_significant
    assert set(scorer.differences(row, other, names=["shift"])) == {"shift"}
    assert set(scorer.differences(row, other, names=["bright"])) == {"bright"}
    assert scorer.differences(row, {7: made(1.0)}) == {}


def test_only_what_is_in_the_table_is_with_adjusted_p(scorer: RowScorer) -> None:
    found = scorer.differences({0: made(1.0, size=2.0)}, {0: made(0.9)})
    adjusted = with_adjusted_p(found, scorer.measures, shown=["bright", "size"])
    assert [adjusted[name].difference.num_tests for name in ("bright", "size")] == [1, 1]
    assert adjusted["shift"].difference.adjusted_p is None
    apart = with_adjusted_p(found, scorer.measures, shown=[])
    assert [apart[name].difference.num_tests for name in ("bright", "size")] == [2, 2]
    assert apart["bright"].difference.adjusted_p == pytest.approx(
        2 * (found["bright"].difference.p_value or 0), rel=0.01
    )
