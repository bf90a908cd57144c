"""95 % intervals by resampling, for one system and for the difference between two systems on the same clips.

Every score is a ratio of sums over clips: for a rate (errors over words) the ratio is recomputed for each draw; a plain
mean has denominators of one. What is drawn are blocks of clips that are alike: those of one speaker, else single clips.
Efron and Tibshirani, "An Introduction to the Bootstrap", 1993 (percentile interval); paired use in speech recognition:
Bisani and Ney, ICASSP 2004; blocks: Liu and Peng, "Statistical Testing on ASR Performance via Blockwise Bootstrap",
2019.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95
LEAST_BLOCKS = 10
"""Fewer blocks say nothing about others of their kind: then clips are drawn."""


def ratio_interval(
    numerators: Float[Tensor, " n"],
    denominators: Float[Tensor, " n"],
    *,
    blocks: Int[Tensor, " n"] | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of sum(numerators) / sum(denominators) over resampled clips, or blocks of clips.

    Args:
        numerators: one a clip.
        denominators: likewise.
        blocks: clips of the same number are drawn together; None draws clips, and so do fewer than `LEAST_BLOCKS`.
        num_resamples: draws.
        seed: of the draws.

    Raises:
        ValueError: without clips, or with different numbers of numerators and denominators.
    """
    if numerators.shape != denominators.shape or numerators.ndim != 1 or not numerators.numel():
        raise ValueError(
            f"got numerators {tuple(numerators.shape)} and denominators {tuple(denominators.shape)}; "
            "give one of each a clip, and at least one clip"
        )
    sums = block_sums(torch.stack((numerators, denominators), dim=1), blocks)
    drawn = draw_counts(sums.shape[0], num_resamples, seed) @ sums
    return percentiles(drawn[:, 0] / drawn[:, 1])


def block_sums(rows: Float[Tensor, "n k"], blocks: Int[Tensor, " n"] | None) -> Float[Tensor, "B k"]:
    """Sums over the rows of each block, on the CPU in float64; the rows themselves where blocks are none or too few."""
    rows = rows.double().cpu()
    if blocks is None:
        return rows
    distinct, index = torch.unique(blocks.cpu(), return_inverse=True)
    if len(distinct) < LEAST_BLOCKS:
        return rows
    return torch.zeros(len(distinct), rows.shape[1], dtype=torch.float64).index_add_(0, index, rows)


@lru_cache(maxsize=2)  # measures of one number of clips follow each other
def draw_counts(num_blocks: int, num_resamples: int, seed: int) -> Float[Tensor, "resamples blocks"]:
    """How often each block is in each draw of as many blocks as there are."""
    drawn = torch.randint(num_blocks, (num_resamples, num_blocks), generator=torch.Generator().manual_seed(seed))
    counts = torch.zeros(num_resamples, num_blocks, dtype=torch.float64)
    return counts.scatter_add_(1, drawn, torch.ones(1, 1, dtype=torch.float64).expand_as(drawn))


def percentiles(values: Float[Tensor, " resamples"]) -> tuple[float, float]:
    """The ends of the interval. Draws without a denominator (NaN) are passed over."""
    tail = (1 - CONFIDENCE) / 2
    low, high = values.nanquantile(torch.tensor([tail, 1 - tail], dtype=values.dtype)).tolist()
    return low, high
