"""Closed forms of Fréchet's and the kernels' distances."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from torch import Tensor

from hh_train.metrics.distribution.distances import (
    frechet_distance,
    gaussian_kernel,
    kernel_sums,
    median_distance,
    polynomial_kernel,
)


def normal(n: int, dim: int, seed: int, *, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, generator=generator, dtype=torch.float64) * scale + shift


def test_frechet_of_two_gaussians_in_one_dimension() -> None:
    """(m - m')^2 + (s - s')^2, exactly, for the sample's own mean and deviation."""
    first, second = normal(200, 1, 0, scale=2.0, shift=1.0), normal(300, 1, 1, scale=0.5, shift=-2.0)
    wanted = (first.mean() - second.mean()) ** 2 + (first.std() - second.std()) ** 2
    assert frechet_distance(first, second) == pytest.approx(float(wanted), rel=1e-10)


def test_frechet_against_the_matrix_square_root() -> None:
    mix = normal(6, 6, 2)
    first, second = normal(80, 6, 3) @ mix, normal(120, 6, 4, shift=0.3)
    a, b = torch.cov(first.T).numpy(), torch.cov(second.T).numpy()
    shift = float((first.mean(0) - second.mean(0)).square().sum())
    wanted = shift + (a + b - 2 * sqrtm(a @ b).real).trace()
    assert frechet_distance(first, second) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("count", [5, 40, 500])
def test_identical_sets_are_at_distance_zero_whatever_their_rank(count: int) -> None:
    rows = normal(count, 64, 5, scale=10.0)
    assert frechet_distance(rows, rows) == pytest.approx(0.0, abs=1e-9)


@given(st.floats(-3, 3), st.integers(0, 1000))
def test_a_shift_adds_its_square(shift: float, seed: int) -> None:
    rows = normal(30, 4, seed)
    assert frechet_distance(rows, rows + shift) == pytest.approx(4 * shift**2, abs=1e-9)


def test_half_precision_does_not_overflow() -> None:
    rows = (normal(50, 8, 6) * 300).half()
    shifted = (rows.double() + 500).half()
    assert frechet_distance(rows, shifted) == pytest.approx(8 * 500**2, rel=0.01)
    with pytest.raises(ValueError, match="at least 2"):
        frechet_distance(rows[:1], shifted)


def test_kernels_by_hand() -> None:
    x, y = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[3.0, -1.0]]).double()
    assert float(polynomial_kernel(x, y)) == pytest.approx((1 / 2 + 1) ** 3)
    assert float(gaussian_kernel(x, y, bandwidth=2.0)) == pytest.approx(torch.tensor(-13 / 8).exp().item())
    assert median_distance(torch.tensor([[0.0], [1.0], [4.0]])) == pytest.approx(3.0)
    with pytest.raises(ValueError, match="equal"):
        median_distance(torch.zeros(5, 2))
    with pytest.raises(ValueError, match="needs 2"):
        median_distance(torch.zeros(1, 2))


@pytest.mark.parametrize("bandwidth", [None, 1.5])
def test_sums_by_groups_are_those_of_all_pairs(bandwidth: float | None) -> None:
    first, second = normal(7, 3, 7), normal(5, 3, 8)
    groups, others = torch.tensor([0, 1, 2, 0, 1, 2, 0]), torch.tensor([1, 0, 1, 0, 1])
    found = kernel_sums(
        first, second, first_groups=groups, second_groups=others, num_groups=(3, 2), bandwidth=bandwidth
    )
    for g in range(3):
        for h in range(2):
            x, y = first[groups == g], second[others == h]
            values = polynomial_kernel(x, y) if bandwidth is None else gaussian_kernel(x, y, bandwidth=bandwidth)
            assert float(found.sums[g, h]) == pytest.approx(float(values.sum()))
            assert float(found.counts[g, h]) == values.numel()


def test_pairs_within_a_clip_are_left_out() -> None:
    rows = normal(4, 3, 9)
    clips = torch.tensor([0, 0, 1, 2])
    alone = torch.zeros(4, dtype=torch.int64)
    found = kernel_sums(
        rows, rows, first_groups=alone, second_groups=alone, num_groups=(1, 1), bandwidth=None,
        first_clips=clips, second_clips=clips,
    )  # fmt: skip
    values = polynomial_kernel(rows, rows)
    inside = values.diagonal().sum() + values[0, 1] + values[1, 0]
    assert float(found.sums) == pytest.approx(float(values.sum() - inside))
    assert float(found.counts) == 16 - 6
