"""Noise levels: the distribution drawn in training and the lists walked in sampling, both on one shifted curve."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

HIGHEST_SAMPLED_LEVEL = 0.999
"""Before the shift; the released samplers start there."""


def shifted(t: Tensor, shift: float) -> Tensor:
    """s t / (1 + (s - 1) t): s > 1 spends more of the unit interval at high noise (Eq. 23, arXiv:2403.03206)."""
    return shift * t / (1 + (shift - 1) * t)


def sampling_levels(num_steps: int, *, shift: float) -> tuple[float, ...]:
    """The released samplers' noise levels, `num_steps` decreasing values and a final 0.

    Raises ValueError for fewer than one step.
    """
    if num_steps < 1:
        raise ValueError(f"a sampler needs at least 1 step, got {num_steps}")
    even = torch.linspace(HIGHEST_SAMPLED_LEVEL, 0, num_steps + 1, dtype=torch.float64)[:-1]
    return (*shifted(even, shift).tolist(), 0.0)


@runtime_checkable
class NoiseLevelDistribution(Protocol):
    """Draws one noise level per clip, the same for its video and its audio."""

    def sample(self, num_clips: int, generator: torch.Generator | None = None) -> Float[Tensor, " B"]: ...


@dataclass(frozen=True, kw_only=True)
class ShiftedUniform:
    """Uniform on (0, 1), then shifted, then clamped: what the sampler with the same shift visits.

    `start` leaves out the levels below it, where clamping would heap them up. Raises ValueError unless
    0 <= lowest < highest <= 1, 0 <= start < 1 and shift > 0.
    """

    shift: float = 5.0
    lowest: float = 0.0
    highest: float = 1.0
    start: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.lowest < self.highest <= 1 and 0 <= self.start < 1 and self.shift > 0):
            raise ValueError(f"want 0 <= lowest < highest <= 1, 0 <= start < 1 and shift > 0, got {self}")

    def sample(self, num_clips: int, generator: torch.Generator | None = None) -> Tensor:
        first = self.start / (self.shift - (self.shift - 1) * self.start)  # where the shift has `start` from
        drawn = first + (1 - first) * torch.rand(num_clips, generator=generator)
        return shifted(drawn, self.shift).clamp(self.lowest, self.highest)

    def above(self, level: float) -> ShiftedUniform:
        """The same levels, given that they are above one."""
        return replace(self, start=max(self.start, level))


@dataclass(frozen=True, kw_only=True)
class SampledLevels:
    """The noise levels that a sampler of few steps visits, each as likely as any other: all that a student knows.

    Raises ValueError for fewer than one step.
    """

    num_steps: int = 8
    shift: float = 5.0

    def __post_init__(self) -> None:
        sampling_levels(self.num_steps, shift=self.shift)

    def sample(self, num_clips: int, generator: torch.Generator | None = None) -> Tensor:
        levels = torch.tensor(sampling_levels(self.num_steps, shift=self.shift)[:-1])
        return levels[torch.randint(self.num_steps, (num_clips,), generator=generator)]


@dataclass(frozen=True, kw_only=True)
class LogitNormal:
    """Sigmoid of a normal, then shifted (section 3.1, arXiv:2403.03206)."""

    mean: float = 0.0
    std: float = 1.0
    shift: float = 1.0

    def sample(self, num_clips: int, generator: torch.Generator | None = None) -> Tensor:
        logits = self.mean + self.std * torch.randn(num_clips, generator=generator)
        return shifted(torch.sigmoid(logits), self.shift)
