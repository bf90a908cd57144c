"""From noise to clean latents, for a state of two tensors (video, audio) that share every noise level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
from diffusers import UniPCMultistepScheduler
from torch import Tensor

from hh_train.flow.noise_levels import sampling_levels
from hh_train.flow.path import clean_from_velocity, noised

State = tuple[Tensor, Tensor]
"""Video and audio tokens."""
VelocityFunction = Callable[[State, float], State]


@runtime_checkable
class Solver(Protocol):
    """Walks from noise to clean.

    `draw` returns standard normal noise, new at every call. `keep` restores what is given (clean conditions); it is
    applied before every evaluation and at the end. `on_step` hears of every finished step.
    """

    @property
    def num_steps(self) -> int: ...

    @property
    def noise_levels(self) -> tuple[float, ...]: ...

    def __call__(
        self,
        velocity: VelocityFunction,
        draw: Callable[[], State],
        *,
        keep: Callable[[State], State],
        on_step: Callable[[], None] | None = None,
    ) -> State: ...


@dataclass(frozen=True, kw_only=True)
class RenoiseSolver:
    """The distilled model's sampler: predict clean, add fresh noise of the next level (Alg. 1, arXiv:2303.01469).

    `levels` overrides the released list of `num_steps` levels. Raises ValueError unless they decrease to a final 0.
    """

    num_steps: int = 8
    shift: float = 5.0
    levels: Sequence[float] | None = None

    def __post_init__(self) -> None:
        levels = self.noise_levels
        decreasing = all(later < earlier for earlier, later in pairwise(levels))
        if not decreasing or levels[-1] != 0 or levels[0] > 1 or len(levels) != self.num_steps + 1:
            raise ValueError(
                f"noise levels must decrease from at most 1 to a final 0 in num_steps={self.num_steps} steps, "
                f"got {levels}"
            )

    @property
    def noise_levels(self) -> tuple[float, ...]:
        """The levels of the evaluations and a final 0."""
        return sampling_levels(self.num_steps, shift=self.shift) if self.levels is None else tuple(self.levels)

    def __call__(
        self,
        velocity: VelocityFunction,
        draw: Callable[[], State],
        *,
        keep: Callable[[State], State],
        on_step: Callable[[], None] | None = None,
        num_steps: int | None = None,
    ) -> State:
        """The clean prediction after the first `num_steps` evaluations; None walks to the end."""
        levels = self.noise_levels[: self.num_steps if num_steps is None else num_steps]
        clean = draw()
        for step, t in enumerate(levels):
            noise = clean if step == 0 else draw()
            x = keep(noise if step == 0 else _renoised(clean, noise, t))
            clean = _clean(x, velocity(x, t), t)
            if on_step is not None:
                on_step()
        return keep(clean)


def _clean(x: State, v: State, t: float) -> State:
    return clean_from_velocity(x[0], v[0], t), clean_from_velocity(x[1], v[1], t)


def _renoised(clean: State, noise: State, t: float) -> State:
    return noised(clean[0], noise[0], t), noised(clean[1], noise[1], t)


def euler_states(
    velocity: VelocityFunction, noise: State, levels: Sequence[float], *, keep: Callable[[State], State]
) -> list[State]:
    """The states of the probability-flow ODE at every one of decreasing `levels`, in Euler steps from the noise at the
    first of them.
    """
    states = [keep(noise)]
    for t, following in pairwise(levels):
        x = states[-1]
        v = velocity(x, t)
        states.append(keep((x[0] + (following - t) * v[0], x[1] + (following - t) * v[1])))
    return states


@dataclass(frozen=True, kw_only=True)
class UniPCSolver:
    """UniPC (arXiv:2302.04867) of diffusers over the released noise levels, one a modality. Deterministic."""

    num_steps: int = 32
    shift: float = 5.0
    order: int = 2

    @property
    def noise_levels(self) -> tuple[float, ...]:
        """The levels of the evaluations and a final 0."""
        return sampling_levels(self.num_steps, shift=self.shift)

    def __call__(
        self,
        velocity: VelocityFunction,
        draw: Callable[[], State],
        *,
        keep: Callable[[State], State],
        on_step: Callable[[], None] | None = None,
    ) -> State:
        schedulers = [self._scheduler(), self._scheduler()]
        x = draw()
        for step, t in enumerate(self.noise_levels[:-1]):
            x = keep(x)
            video, audio = (
                scheduler.step(v, scheduler.timesteps[step], sample, return_dict=False)[0]
                for scheduler, v, sample in zip(schedulers, velocity(x, t), x, strict=True)
            )
            x = video, audio
            if on_step is not None:
                on_step()
        return keep(x)

    def _scheduler(self) -> UniPCMultistepScheduler:
        scheduler = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0, solver_order=self.order
        )
        scheduler.set_timesteps(sigmas=np.array(self.noise_levels[:-1]))
        return scheduler
