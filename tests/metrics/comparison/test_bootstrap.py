"""Intervals: coverage, rates, and blocks of clips that are alike."""

from __future__ import annotations

import pytest
import torch

from hh_train.metrics.comparison.bootstrap import LEAST_BLOCKS, block_sums, draw_counts, ratio_interval


def test_the_interval_holds_the_true_mean_about_as_often_as_it_says() -> None:
    generator = torch.Generator().manual_seed(0)
    trials, held = 300, 0
    for trial in range(trials):
        sample = torch.rand(60, generator=generator).double()  # mean 0.5
        low, high = ratio_interval(sample, torch.ones(60).double(), num_resamples=300, seed=trial)
        held += low <= 0.5 <= high
    assert 0.91 < held / trials < 0.99


def test_blocks_keep_the_coverage_that_clips_lose() -> None:
    """Twenty speakers of eight clips that are nearly equal: the clips alone seem to say far more than they do."""
    generator = torch.Generator().manual_seed(1)
    trials, held, held_by_clips = 150, 0, 0
    blocks = torch.arange(20).repeat_interleave(8)
    for trial in range(trials):
        voices = torch.randn(20, generator=generator).double().repeat_interleave(8)
        sample = voices + 0.2 * torch.randn(160, generator=generator)
        ones = torch.ones(160).double()
        low, high = ratio_interval(sample, ones, blocks=blocks, num_resamples=300, seed=trial)
        held += low <= 0 <= high
        low, high = ratio_interval(sample, ones, num_resamples=300, seed=trial)
        held_by_clips += low <= 0 <= high
    assert 0.86 < held / trials < 0.99
    assert held_by_clips / trials < 0.7


def test_a_rate_weighs_clips_by_their_words() -> None:
    low, high = ratio_interval(torch.tensor([0.0, 12.0]), torch.tensor([1.0, 12.0]), seed=3)
    assert (low, high) == (0.0, 1.0)
    low, high = ratio_interval(torch.full((50,), 2.0), torch.full((50,), 8.0))
    assert low == high == 0.25


def test_draws_without_a_denominator_are_passed_over() -> None:
    numerators, denominators = torch.tensor([3.0] + [0.0] * 4), torch.tensor([4.0] + [0.0] * 4)
    assert ratio_interval(numerators, denominators) == (0.75, 0.75)


def test_seeded_draws_repeat_and_have_the_size_of_the_sample() -> None:
    values = torch.rand(30, generator=torch.Generator().manual_seed(1))
    ones = torch.ones(30)
    assert ratio_interval(values, ones, seed=5) == ratio_interval(values, ones, seed=5)
    assert ratio_interval(values, ones, seed=5) != ratio_interval(values, ones, seed=6)
    counts = draw_counts(30, 50, 0)
    assert counts.shape == (50, 30) and counts.sum(1).tolist() == [30.0] * 50 and counts.max() > 1


def test_too_few_blocks_are_clips() -> None:
    rows = torch.arange(40.0).reshape(20, 2)
    few = torch.arange(20) % (LEAST_BLOCKS - 1)
    assert torch.equal(block_sums(rows, few), rows.double())
    enough = torch.arange(20) % LEAST_BLOCKS
    assert torch.equal(block_sums(rows, enough), rows.double()[:10] + rows.double()[10:])


def test_no_clip_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one clip"):
        ratio_interval(torch.zeros(0), torch.zeros(0))
