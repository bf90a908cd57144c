"""Pooled scores against closed forms: intervals that know that training runs differ, and do not hide it."""

from __future__ import annotations

import pytest
import torch

from hh_train.metrics.clip_metric import Row
from hh_train.metrics.comparison.difference import paired_difference
from hh_train.metrics.comparison.pooled import pooled_difference, pooled_score, pooled_set_value, rows_of
from hh_train.metrics.measurement import ClipMeasurement

NO_SPEAKERS: dict[str, str] = {}


def rows(values: torch.Tensor) -> dict[int, dict[str, Row]]:
    """One row of the tensor a seed, one column a clip."""
    return {s: {f"clip-{i:03}": Row(float(v)) for i, v in enumerate(own)} for s, own in enumerate(values)}


def clips(values: torch.Tensor) -> dict[int, list[ClipMeasurement]]:
    return {s: [ClipMeasurement(key=k, values={"m": row}) for k, row in own.items()] for s, own in rows(values).items()}


def test_one_seed_is_the_paired_difference_of_its_clips() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(1, 40, generator=generator) + 0.5, torch.randn(1, 40, generator=generator)
    found = pooled_difference(rows(ours), rows(theirs), speakers=NO_SPEAKERS)
    expected = paired_difference(rows(ours)[0], rows(theirs)[0])
    assert found is not None and found.spread is None and found.difference.num_clips == 40
    assert found.difference.mean == pytest.approx(expected.mean)
    assert found.difference.low == pytest.approx(expected.low, abs=0.03)
    assert found.difference.high == pytest.approx(expected.high, abs=0.03)
    assert found.difference.p_value == pytest.approx(expected.p_value, abs=0.01)


def test_rates_are_pooled_by_what_they_count() -> None:
    runs = {
        0: [ClipMeasurement(key="a", values={"m": Row(1.0, 2.0)})],
        1: [ClipMeasurement(key="a", values={"m": Row(0.0, 8.0)})],
    }
    found = pooled_score("m", runs, speakers=NO_SPEAKERS)
    assert found is not None
    assert found.score.mean == 0.1 and found.by_seed == {0: 0.5, 1: 0.0}
    assert found.spread == pytest.approx(0.5 / 2**0.5)


def test_undefined_and_unreadable_clips_are_counted() -> None:
    runs = {
        0: [
            ClipMeasurement(key="a", values={"m": Row(2.0)}),
            ClipMeasurement(key="b", values={"m": None}),
            ClipMeasurement(key="c", failure="torn"),
            ClipMeasurement(key="d", failure="torn", values={"m": Row(4.0)}),
        ]
    }
    found = pooled_score("m", runs, speakers=NO_SPEAKERS)
    assert found is not None
    assert (found.score.mean, found.score.num_clips, found.score.num_undefined, found.score.num_failed) == (3, 2, 1, 2)
    assert pooled_score("other", runs, speakers=NO_SPEAKERS) is None and rows_of("other", runs) == {}


def test_seeds_that_disagree_cannot_be_told_apart_however_many_clips_there_are() -> None:
    """One seed is better by 1 and one worse by 0.6, on every one of 200 clips."""
    zero = torch.zeros(2, 200)
    noise = 0.01 * torch.randn(2, 200, generator=torch.Generator().manual_seed(0))
    moved = torch.tensor([[1.0], [-0.6]]) + noise
    found = pooled_difference(rows(moved), rows(zero), speakers=NO_SPEAKERS)
    assert found is not None
    assert found.difference.mean == pytest.approx(0.2, abs=0.01)
    assert found.difference.low == pytest.approx(-0.6, abs=0.01)
    assert found.difference.high == pytest.approx(1.0, abs=0.01)
    assert not found.difference.is_significant and (found.difference.p_value or 0) > 0.2
    naive = paired_difference(*({f"{s} {k}": row for s in own for k, row in own[s].items()} for own in (rows(moved), rows(zero))))  # fmt: skip  # noqa: E501
    assert naive.is_significant
    agreeing = pooled_difference(rows(moved.abs()), rows(zero), speakers=NO_SPEAKERS)
    assert agreeing is not None and agreeing.difference.is_significant


def test_the_interval_holds_the_truth_where_clips_alone_would_not() -> None:
    """Six seeds whose effects spread by 1 around 0, thirty clips of spread 0.3 each."""
    generator = torch.Generator().manual_seed(1)
    num_held, num_held_naively, num_trials = 0, 0, 120
    for _ in range(num_trials):
        moved = torch.randn(6, 1, generator=generator) + 0.3 * torch.randn(6, 30, generator=generator)
        found = pooled_difference(rows(moved), rows(torch.zeros(6, 30)), speakers=NO_SPEAKERS, num_resamples=300)
        assert found is not None and found.difference.low is not None and found.difference.high is not None
        num_held += found.difference.low <= 0 <= found.difference.high
        half = 1.96 * float(moved.std()) / 180**0.5
        num_held_naively += abs(float(moved.mean())) <= half
    assert num_held / num_trials > 0.8
    assert num_held_naively / num_trials < 0.6


def test_a_speakers_clips_are_drawn_together() -> None:
    """Twelve speakers whose four clips are the same: the interval is that of twelve, not of 48."""
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(1, 12, generator=generator).repeat_interleave(4, dim=1)
    speakers = {f"clip-{i:03}": f"speaker {i // 4}" for i in range(48)}
    wide = pooled_score("m", clips(values), speakers=speakers)
    narrow = pooled_score("m", clips(values), speakers=NO_SPEAKERS)
    assert wide is not None and narrow is not None
    lengths = [(found.score.high or 0) - (found.score.low or 0) for found in (wide, narrow)]
    assert lengths[0] == pytest.approx(2 * 1.96 * float(values.std(correction=0)) / 12**0.5, rel=0.15)
    assert lengths[0] / lengths[1] == pytest.approx(2.0, rel=0.15)


def test_only_seeds_and_clips_of_both_count() -> None:
    first = {0: {"a": Row(1.0), "b": Row(5.0)}, 1: {"a": Row(9.0)}}
    second = {0: {"a": Row(0.0), "c": Row(7.0)}, 2: {"a": Row(3.0)}}
    found = pooled_difference(first, second, speakers=NO_SPEAKERS)
    assert found is not None
    assert (found.difference.mean, found.difference.num_clips, found.by_seed) == (1.0, 1, {0: 1.0})
    assert pooled_difference({1: {"a": Row(1.0)}}, {2: {"a": Row(1.0)}}, speakers=NO_SPEAKERS) is None


@pytest.mark.parametrize(
    ("by_seed", "expected"),
    [
        ({}, None),
        ({3: (1.0, 0.5, 2.0)}, (1.0, 0.5, 2.0)),
        ({0: (1.0, 0.0, 2.0), 1: (2.0, 1.0, 3.0)}, (1.5, 0.5, 2.5)),
        ({0: (0.0, -0.1, 0.1), 1: (4.0, 3.9, 4.1)}, (2.0, 0.0, 4.0)),
        ({0: (0.0, None, None), 1: (4.0, 3.9, 4.1)}, (2.0, None, None)),
    ],
)
def test_values_of_sets_are_averaged_and_hold_every_seed(
    by_seed: dict[int, tuple[float, float | None, float | None]], expected: object
) -> None:
    found = pooled_set_value(by_seed)
    assert found == (expected if expected is None else pytest.approx(expected))
