"""Intervals: coverage, pairing, and what they say of equal systems."""

from __future__ import annotations

import pytest
import torch

from hh_train.metrics.comparison.bootstrap import paired_difference, ratio_interval


def test_the_interval_holds_the_true_mean_about_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    trials, held = 300, 0
    for trial in range(trials):
        sample = torch.rand(60, generator=generator).double()  # mean 0.5
        low, high = ratio_interval(sample, torch.ones(60).double(), num_resamples=300, seed=trial)
        held += low <= 0.5 <= high
    assert 0.89 < held / trials < 0.99


def test_a_rate_weighs_clips_by_their_words() -> None:
    low, high = ratio_interval(torch.tensor([0.0, 12.0]), torch.tensor([1.0, 12.0]), seed=3)
    assert (low, high) == (0.0, 1.0)
    low, high = ratio_interval(torch.full((50,), 2.0), torch.full((50,), 8.0))
    assert low == high == 0.25


def test_seeded_draws_repeat() -> None:
    values = torch.rand(30, generator=torch.Generator().manual_seed(1))
    ones = torch.ones(30)
    assert ratio_interval(values, ones, seed=5) == ratio_interval(values, ones, seed=5)
    assert ratio_interval(values, ones, seed=5) != ratio_interval(values, ones, seed=6)


def test_no_clip_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one clip"):
        ratio_interval(torch.zeros(0), torch.zeros(0))


def _clips(values: torch.Tensor) -> dict[str, tuple[float, float]]:
    return {f"{i:03}": (float(v), 1.0) for i, v in enumerate(values)}


def test_pairing_sees_a_small_difference_that_shared_difficulty_would_hide() -> None:
    generator = torch.Generator().manual_seed(2)
    difficulty = torch.randn(80, generator=generator) * 5
    first, second = _clips(difficulty + 0.5 + 0.3 * torch.randn(80, generator=generator)), _clips(difficulty)
    found = paired_difference(first, second)
    assert found.is_significant
    assert found.mean == pytest.approx(0.5, abs=0.15)
    assert found.high is not None and found.low is not None
    low, high = ratio_interval(torch.tensor([v for v, _ in first.values()]), torch.ones(80))
    assert found.high - found.low < (high - low) / 4


def test_equal_systems_are_rarely_told_apart() -> None:
    generator = torch.Generator().manual_seed(3)
    trials = 200
    rejected = sum(
        paired_difference(
            _clips(torch.randn(40, generator=generator)),
            _clips(torch.randn(40, generator=generator)),
            num_resamples=300,
            seed=trial,
        ).is_significant
        for trial in range(trials)
    )
    assert rejected / trials < 0.12


def test_differences_are_over_the_common_clips_alone() -> None:
    first = {"a": (1.0, 2.0), "b": (3.0, 4.0), "only first": (100.0, 1.0)}
    second = {"b": (1.0, 4.0), "a": (1.0, 2.0), "only second": (-100.0, 1.0)}
    found = paired_difference(first, second)
    assert found.num_clips == 2
    assert found.mean == pytest.approx(4 / 6 - 2 / 6)
    assert paired_difference(first, {}).mean is None
    assert not paired_difference(first, {}).is_significant
