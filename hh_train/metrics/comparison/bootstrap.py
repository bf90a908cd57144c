"""95 % intervals by resampling clips, for one system and for the difference between two systems on the same clips.

A clip is the unit that is drawn, since its words share a voice, a sentence and a seed. Every score is a ratio of sums
over clips: for a rate (errors over words) the ratio is recomputed for each draw; a plain mean has denominators of one.
Efron and Tibshirani, "An Introduction to the Bootstrap", 1993 (percentile interval); paired use in speech recognition:
Bisani and Ney, ICASSP 2004.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

NUM_RESAMPLES = 2000
_CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Difference:
    """First system minus second, over the clips that both have."""

    mean: float | None
    low: float | None
    high: float | None
    num_clips: int

    @property
    def is_significant(self) -> bool:
        """Whether the 95 % interval leaves out zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def ratio_interval(
    numerators: Float[Tensor, " n"],
    denominators: Float[Tensor, " n"],
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile interval of sum(numerators) / sum(denominators) over n resampled clips.

    Raises:
        ValueError: without clips, or with different numbers of numerators and denominators.
    """
    if numerators.shape != denominators.shape or numerators.ndim != 1 or not numerators.numel():
        raise ValueError(
            f"got numerators {tuple(numerators.shape)} and denominators {tuple(denominators.shape)}; "
            "give one of each a clip, and at least one clip"
        )
    drawn = _draws(numerators.shape[0], num_resamples, seed).to(numerators.device)
    return _percentiles(numerators.double()[drawn].sum(1) / denominators.double()[drawn].sum(1))


def paired_difference(
    first: Mapping[str, tuple[float, float]],
    second: Mapping[str, tuple[float, float]],
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Difference:
    """First minus second, each a mapping from clip to (numerator, denominator); both are resampled with the same draws
    of clips.

    Clips that only one of them has are left out: their number is `len(first) - num_clips`, so that a caller can tell.
    """
    keys = sorted(first.keys() & second.keys())
    if not keys:
        return Difference(mean=None, low=None, high=None, num_clips=0)
    a = torch.tensor([first[k] for k in keys], dtype=torch.float64)
    b = torch.tensor([second[k] for k in keys], dtype=torch.float64)
    drawn = _draws(len(keys), num_resamples, seed)
    sums_a, sums_b = a[drawn].sum(1), b[drawn].sum(1)
    low, high = _percentiles(sums_a[:, 0] / sums_a[:, 1] - sums_b[:, 0] / sums_b[:, 1])
    total_a, total_b = a.sum(0), b.sum(0)
    mean = float(total_a[0] / total_a[1] - total_b[0] / total_b[1])
    return Difference(mean=mean, low=low, high=high, num_clips=len(keys))


def _draws(num_clips: int, num_resamples: int, seed: int) -> Int[Tensor, "resamples clips"]:
    return torch.randint(num_clips, (num_resamples, num_clips), generator=torch.Generator().manual_seed(seed))


def _percentiles(values: Float[Tensor, " resamples"]) -> tuple[float, float]:
    tail = (1 - _CONFIDENCE) / 2
    low, high = values.quantile(torch.tensor([tail, 1 - tail], dtype=values.dtype, device=values.device)).tolist()
    return low, high
