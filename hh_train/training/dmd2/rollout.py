"""The student's own samples, made as its sampler makes them: backward simulation (section 4.5, arXiv:2405.14867)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hh_train.flow.clip_noise import ClipNoise
from hh_train.flow.solvers import RenoiseSolver, State
from hh_train.inference.guided import Model, keeping_given
from hh_train.runtime.seeds import derived_seed
from hh_train.types import PackedBatch


@dataclass(frozen=True, kw_only=True)
class BackwardSimulation:
    """Walks the student's sampler from noise up to a random exit step and returns the clean prediction made there.

    `exit_probabilities`, one per step, default to equal ones. No data enters but the given tokens. Raises ValueError
    unless there is one probability per step and they sum to 1.
    """

    sampler: RenoiseSolver
    exit_probabilities: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if self.exit_probabilities is None:
            return
        count, total = len(self.exit_probabilities), sum(self.exit_probabilities)
        if count != self.sampler.num_steps or abs(total - 1) > 1e-6 or min(self.exit_probabilities) < 0:
            raise ValueError(
                f"want {self.sampler.num_steps} exit probabilities (one per step) that sum to 1, "
                f"got {count} with sum {total}"
            )

    def exit_step(self, *, seed: int, step: int) -> int:
        """The exit of a training step: the same on every rank, so that all make the same number of evaluations."""
        generator = torch.Generator().manual_seed(derived_seed(seed, "exit", step))
        weights = self.exit_probabilities or [1.0] * self.sampler.num_steps
        return int(torch.multinomial(torch.tensor(weights), 1, generator=generator))

    def __call__(self, student: Model, batch: PackedBatch, draws: ClipNoise, *, exit_step: int) -> State:
        """Clean video and audio tokens after exit_step + 1 evaluations. Gradients flow through the last alone."""
        with_gradient = torch.is_grad_enabled()
        exit_level = self.sampler.noise_levels[exit_step]

        def velocity(x: State, t: float) -> State:
            with torch.set_grad_enabled(with_gradient and t == exit_level):
                prediction = student(batch.with_latents(*x))
            return prediction.video, prediction.audio

        return self.sampler(velocity, draws.gaussian, keep=keeping_given(batch), num_steps=exit_step + 1)
