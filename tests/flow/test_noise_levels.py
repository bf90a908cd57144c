"""Noise levels drawn and walked."""

from __future__ import annotations

import pytest
import torch

from hh_train.flow.noise_levels import LogitNormal, ShiftedUniform, sampling_levels, shifted


def test_the_released_lists() -> None:
    """Section 3.7 of the architecture's description: 8 and 5 steps at shift 5."""
    assert [round(level, 4) for level in sampling_levels(8, shift=5.0)] == [
        0.9998, 0.972, 0.9373, 0.8926, 0.8331, 0.7497, 0.6247, 0.4164, 0.0,
    ]  # fmt: skip
    assert [round(level, 5) for level in sampling_levels(5, shift=5.0)][1:] == [0.95215, 0.88209, 0.76893, 0.55525, 0]


def test_no_steps() -> None:
    with pytest.raises(ValueError, match="at least 1 step, got 0"):
        sampling_levels(0, shift=5.0)


def test_shifted_uniform_is_the_samplers_curve() -> None:
    drawn = ShiftedUniform(shift=5.0).sample(20_000, torch.Generator().manual_seed(0))
    for quantile in (0.1, 0.5, 0.9):
        expected = shifted(torch.tensor(quantile), 5.0)
        assert (drawn.quantile(quantile) - expected).abs() < 0.01


def test_clamp() -> None:
    drawn = ShiftedUniform(shift=5.0, lowest=0.3, highest=0.9).sample(500, torch.Generator().manual_seed(0))
    assert drawn.min() == pytest.approx(0.3) and drawn.max() == pytest.approx(0.9)


def test_levels_above_one_are_the_others_share_left_out() -> None:
    """Against rejection: the quantiles of those of all levels that lie above."""
    every = ShiftedUniform(shift=5.0).sample(100_000, torch.Generator().manual_seed(0))
    kept = every[every >= 0.75]
    drawn = ShiftedUniform(shift=5.0).above(0.75).sample(50_000, torch.Generator().manual_seed(1))
    assert drawn.min() >= 0.75
    for quantile in (0.1, 0.5, 0.9):
        assert float(drawn.quantile(quantile)) == pytest.approx(float(kept.quantile(quantile)), abs=0.005)
    assert ShiftedUniform().above(0.75).above(0.5).start == 0.75


@pytest.mark.parametrize("fields", [{"shift": 0.0}, {"start": 1.0}, {"lowest": 0.5, "highest": 0.5}, {"highest": 1.5}])
def test_impossible_distributions(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="0 <= lowest < highest <= 1"):
        ShiftedUniform(**fields)


def test_logit_normal_median() -> None:
    drawn = LogitNormal(mean=1.0, std=0.5).sample(20_000, torch.Generator().manual_seed(0))
    assert (drawn.median() - torch.tensor(1.0).sigmoid()).abs() < 0.01
