"""Distances between two sets of feature vectors, in float64.

Fréchet distance of fitted Gaussians: Heusel et al., NIPS 2017 (FID; FVD and FAD are the same of other features). It is
biased upward by an amount that depends on the number of vectors. Kernel distance, the squared maximum mean discrepancy:
Gretton et al., JMLR 2012; with a polynomial kernel Binkowski et al., ICLR 2018 (KID, KVD), with a Gaussian one Chung et
al., 2025 (KAD). It is unbiased, so that it may be negative.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

_ROWS_AT_A_TIME = 1024
_LARGEST_PAIRWISE = 4096


def frechet_distance(first: Float[Tensor, "n D"], second: Float[Tensor, "m D"]) -> float:
    """|mean - mean'|^2 + tr(C + C' - 2 (C C')^1/2), with unbiased covariances.

    Raises:
        ValueError: for fewer than two vectors on a side.
    """
    return gaussian_distance(fit_gaussian(first), fit_gaussian(second))


class Gaussian(NamedTuple):
    """Mean, and a factor R of the covariance R^T R."""

    mean: Float[Tensor, " D"]
    factor: Float[Tensor, "r D"]


def fit_gaussian(rows: Float[Tensor, "n D"]) -> Gaussian:
    """The Gaussian with the rows' mean and unbiased covariance. Raises ValueError for fewer than two rows."""
    if rows.shape[0] < 2:
        raise ValueError(f"got {rows.shape[0]} feature vectors; a covariance needs at least 2")
    wide = rows.double()
    mean = wide.mean(dim=0)
    centered = (wide - mean) / (rows.shape[0] - 1) ** 0.5
    factor = torch.linalg.qr(centered, mode="r").R if rows.shape[0] > rows.shape[1] else centered
    return Gaussian(mean=mean, factor=factor)


def gaussian_distance(first: Gaussian, second: Gaussian) -> float:
    """Fréchet's distance. The trace of (C C')^1/2 is the sum of the singular values of R R'^T, which stay exact where
    eigenvalues of the product would drown in rounding.
    """
    cross = torch.linalg.svdvals(first.factor @ second.factor.T).sum()
    spread = first.factor.square().sum() + second.factor.square().sum() - 2 * cross
    return float((first.mean - second.mean).square().sum() + spread)


def polynomial_kernel(first: Float[Tensor, "n D"], second: Float[Tensor, "m D"]) -> Float[Tensor, "n m"]:
    """(x . y / D + 1)^3."""
    return (first @ second.T / first.shape[1] + 1) ** 3


def gaussian_kernel(
    first: Float[Tensor, "n D"], second: Float[Tensor, "m D"], *, bandwidth: float
) -> Float[Tensor, "n m"]:
    """exp(-|x - y|^2 / (2 bandwidth^2))."""
    squares = first.square().sum(1)[:, None] + second.square().sum(1) - 2 * first @ second.T
    return torch.exp(-squares.clamp(min=0) / (2 * bandwidth**2))


def median_distance(rows: Float[Tensor, "n D"]) -> float:
    """The median of the pairwise Euclidean distances; of more than 4096 rows, every k-th is taken.

    Raises:
        ValueError: for fewer than two rows, or where most of them are equal.
    """
    taken = rows[:: -(-rows.shape[0] // _LARGEST_PAIRWISE)].double()
    if taken.shape[0] < 2:
        raise ValueError(f"got {taken.shape[0]} feature vectors; a distance needs 2")
    median = float(torch.pdist(taken).median())
    if median <= 0:
        raise ValueError("most of the reference's feature vectors are equal; a kernel needs a width above 0")
    return median


class KernelSums(NamedTuple):
    """Sums of kernel values over pairs of rows, and the numbers of pairs, by groups of rows."""

    sums: Float[Tensor, "g h"]
    counts: Float[Tensor, "g h"]


def kernel_sums(
    first: Float[Tensor, "n D"],
    second: Float[Tensor, "m D"],
    *,
    first_groups: Int[Tensor, " n"],
    second_groups: Int[Tensor, " m"],
    num_groups: tuple[int, int],
    bandwidth: float | None,
    first_clips: Int[Tensor, " n"] | None = None,
    second_clips: Int[Tensor, " m"] | None = None,
) -> KernelSums:
    """Kernel sums of all pairs, polynomial without a bandwidth and Gaussian with one.

    With clips, pairs within one clip are left out: its rows share a voice and a room, and would make the distance
    biased. With one row a clip these are each row's pair with itself.
    """
    sums = torch.zeros(num_groups, dtype=torch.float64)
    counts = torch.zeros(num_groups, dtype=torch.float64)
    others = second.double()
    columns = torch.nn.functional.one_hot(second_groups, num_groups[1]).double()
    for start in range(0, first.shape[0], _ROWS_AT_A_TIME):
        part = slice(start, start + _ROWS_AT_A_TIME)
        rows = first[part].double()
        values = (
            polynomial_kernel(rows, others) if bandwidth is None else gaussian_kernel(rows, others, bandwidth=bandwidth)
        )
        taken = torch.ones_like(values)
        if first_clips is not None and second_clips is not None:
            taken = (first_clips[part][:, None] != second_clips).double()
        sums.index_add_(0, first_groups[part], (values * taken) @ columns)
        counts.index_add_(0, first_groups[part], taken @ columns)
    return KernelSums(sums=sums, counts=counts)
