"""Whether two systems differ, how sure that is among many measures, and how small a difference could have been seen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

LEVEL = 0.05
NUM_SWAPS = 10_000
_EXACT_BLOCKS = 12
_PORTION = 1000
_NORMAL_97_5, _NORMAL_80 = 1.959964, 0.841621


def swap_test(
    first: Float[Tensor, "B 2"], second: Float[Tensor, "B 2"], *, num_swaps: int = NUM_SWAPS, seed: int = 0
) -> float:
    """p-value of the difference of two ratios of sums, from swapping the systems' clips block by block.

    If the systems were equal, it would not matter which of them made which clip: the p-value is the share of swaps
    whose difference is as large as the observed one. All swaps are tried up to 12 blocks, a seeded sample of them
    beyond. Unlike a bootstrap it does not find three clips enough. Noreen, "Computer-Intensive Methods for Testing
    Hypotheses", 1989 (approximate randomization).

    Args:
        first: numerator and denominator of each block, of one system.
        second: of the other system, same blocks.
        num_swaps: how many are tried when all would be too many.
        seed: of the sample.
    """
    observed = abs(_difference(first.sum(0), second.sum(0)))
    threshold = observed - 1e-9 * max(float(observed), 1e-12)
    moved = second - first
    as_large = tried = 0
    for swaps in _swaps(first.shape[0], num_swaps, seed):
        found = _difference(first.sum(0) + swaps @ moved, second.sum(0) - swaps @ moved).abs()
        as_large += int((found >= threshold).sum())
        tried += len(swaps)
    if first.shape[0] <= _EXACT_BLOCKS:
        return as_large / tried
    return (as_large + 1) / (tried + 1)


def can_tell(num_blocks: int) -> bool:
    """Whether so many blocks can make a p-value below the level at all."""
    return 2 * 0.5**num_blocks < LEVEL


def _difference(first: Float[Tensor, "*swaps 2"], second: Float[Tensor, "*swaps 2"]) -> Float[Tensor, "*swaps"]:
    return first[..., 0] / first[..., 1] - second[..., 0] / second[..., 1]


def _swaps(num_blocks: int, num_swaps: int, seed: int) -> Iterator[Float[Tensor, "swaps blocks"]]:
    """1 where a block is swapped, in portions that fit into memory."""
    if num_blocks <= _EXACT_BLOCKS:
        numbers = torch.arange(2**num_blocks)
        yield ((numbers[:, None] >> torch.arange(num_blocks)) & 1).double()
        return
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, num_swaps, _PORTION):
        count = min(_PORTION, num_swaps - start)
        yield torch.randint(2, (count, num_blocks), generator=generator).double()


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted for being tested together, by name: below the level, the chance that any of them errs is too.

    Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for rank, (name, p_value) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_value))
        adjusted[name] = largest
    return adjusted


def detectable_difference(differences: Float[Tensor, " resamples"]) -> float | None:
    """The smallest true difference that a comparison like this one finds in 80 % of cases, at the 5 % level.

    From the spread of the resampled paired differences; None where that is not defined.
    """
    finite = differences[differences.isfinite()]
    if finite.numel() < 2:
        return None
    spread = float(finite.std(correction=0))
    return (_NORMAL_97_5 + _NORMAL_80) * spread if math.isfinite(spread) else None
