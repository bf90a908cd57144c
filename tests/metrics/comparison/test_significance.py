"""p-values that hold what they promise, among many measures too, and differences that can be seen."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hh_train.metrics.comparison.significance import can_tell, detectable_difference, holm, swap_test


def rows(values: torch.Tensor) -> torch.Tensor:
    return torch.stack((values.double(), torch.ones(len(values)).double()), dim=1)


def test_three_clips_are_never_enough_and_six_may_be() -> None:
    """All swaps of n equal differences: two of 2^n are as extreme."""
    for count in (1, 3, 6, 10):
        p_value = swap_test(rows(torch.ones(count)), rows(torch.zeros(count)))
        assert p_value == pytest.approx(2 / 2**count)
        assert can_tell(count) == (p_value < 0.05)


def test_equal_systems_are_rejected_as_often_as_the_level_says() -> None:
    generator = torch.Generator().manual_seed(3)
    trials = 300
    rejected = 0
    for trial in range(trials):
        words = torch.randint(3, 20, (40,), generator=generator).double()
        first, second = (torch.distributions.Binomial(words, 0.15).sample() for _ in range(2))
        pairs = (torch.stack((errors, words), dim=1) for errors in (first, second))
        rejected += swap_test(*pairs, num_swaps=400, seed=trial) < 0.05
    assert 0.015 < rejected / trials < 0.09


def test_a_difference_is_found_and_its_sign_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(40, generator=generator)
    better = base + 0.6 + 0.5 * torch.randn(40, generator=generator)
    assert swap_test(rows(better), rows(base)) < 0.001
    assert swap_test(rows(base), rows(better)) == swap_test(rows(better), rows(base))
    assert swap_test(rows(base), rows(base)) == 1.0


def test_holm_by_hand() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06}
    )
    assert holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0}
    assert holm({}) == {}


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=8))
def test_holm_raises_and_keeps_the_order(p_values: dict[str, float]) -> None:
    adjusted = holm(p_values)
    assert all(p_values[name] <= adjusted[name] <= 1 for name in p_values)
    ordered = sorted(p_values, key=lambda name: p_values[name])
    assert [adjusted[name] for name in ordered] == sorted(adjusted.values())


def test_a_detectable_difference_is_detected_four_times_in_five() -> None:
    """From the standard error s: 2.8 s; and a normal test of a true difference of that size has 80 % power."""
    spread = 0.3
    draws = spread * torch.randn(200_000, generator=torch.Generator().manual_seed(0)).double()
    size = detectable_difference(draws)
    assert size == pytest.approx(2.8016 * spread, rel=0.01)
    observed = size + spread * torch.randn(20_000, generator=torch.Generator().manual_seed(1))
    assert float((observed.abs() > 1.96 * spread).double().mean()) == pytest.approx(0.8, abs=0.015)
    assert detectable_difference(torch.tensor([math.nan, 1.0])) is None
