"""The student's samples of a training step, made as its sampler makes them (section 4.5, arXiv:2405.14867)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from hh_train.flow.clip_noise import ClipNoise
from hh_train.flow.path import clean_from_velocity, noised
from hh_train.flow.solvers import RenoiseSolver, State
from hh_train.inference.guided import Model, keeping_given
from hh_train.runtime.seeds import derived_seed
from hh_train.types import PackedBatch


@dataclass(frozen=True)
class Exit:
    """Where a rollout ends: after evaluation number `step` (from 0), which starts from noised data or from the
    student's own samples.
    """

    step: int
    from_data: bool = False


@dataclass(frozen=True, kw_only=True)
class BackwardSimulation:
    """Walks the student's sampler from noise up to a random exit step and returns the clean prediction made there.

    Args:
        sampler: the student's, in training as afterwards.
        exit_probabilities: one per step; None makes all equal.
        simulated_share: of the steps that walk there as described, where no data enters but the given tokens. The
            others start at the exit, from data noised to its level. 0 trains on noised data alone (`data_latent`),
            what lies between mixes both.

    Raises ValueError unless there is one probability per step, they sum to 1, and the share lies in [0, 1].
    """

    sampler: RenoiseSolver
    exit_probabilities: Sequence[float] | None = None
    simulated_share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.simulated_share <= 1:
            raise ValueError(f"got simulated_share {self.simulated_share}, wanted a share in [0, 1]")
        if self.exit_probabilities is None:
            return
        count, total = len(self.exit_probabilities), sum(self.exit_probabilities)
        if count != self.sampler.num_steps or abs(total - 1) > 1e-6 or min(self.exit_probabilities) < 0:
            raise ValueError(
                f"want {self.sampler.num_steps} exit probabilities (one per step) that sum to 1, "
                f"got {count} with sum {total}"
            )

    @property
    def probabilities(self) -> tuple[float, ...]:
        """Of the exits, in the order of the steps."""
        num_steps = self.sampler.num_steps
        return (1 / num_steps,) * num_steps if self.exit_probabilities is None else tuple(self.exit_probabilities)

    def exit_at(self, *, seed: int, step: int) -> Exit:
        """The exit of a training step: the same on every rank, so that all make the same number of evaluations."""
        generator = torch.Generator().manual_seed(derived_seed(seed, "exit", step))
        drawn = int(torch.multinomial(torch.tensor(self.probabilities), 1, generator=generator))
        return Exit(step=drawn, from_data=float(torch.rand((), generator=generator)) >= self.simulated_share)

    def num_evaluations(self, exit_at: Exit) -> int:
        """Passes through the student."""
        return 1 if exit_at.from_data else exit_at.step + 1

    def __call__(self, student: Model, batch: PackedBatch, draws: ClipNoise, *, exit_at: Exit) -> State:
        """Clean video and audio tokens. Gradients flow through the last evaluation alone."""
        if exit_at.from_data:
            return self._from_data(student, batch, draws, self.sampler.noise_levels[exit_at.step])
        with_gradient = torch.is_grad_enabled()
        exit_level = self.sampler.noise_levels[exit_at.step]

        def velocity(x: State, t: float) -> State:
            with torch.set_grad_enabled(with_gradient and t == exit_level):
                return _velocity(student, batch, x)

        keep = keeping_given(batch)
        return self.sampler(velocity, draws.gaussian, keep=keep, num_steps=exit_at.step + 1)

    @staticmethod
    def _from_data(student: Model, batch: PackedBatch, draws: ClipNoise, level: float) -> State:
        keep, noise = keeping_given(batch), draws.gaussian()
        x = keep((noised(batch.video, noise[0], level), noised(batch.audio, noise[1], level)))
        v = _velocity(student, batch, x)
        return keep((clean_from_velocity(x[0], v[0], level), clean_from_velocity(x[1], v[1], level)))


def _velocity(student: Model, batch: PackedBatch, x: State) -> State:
    prediction = student(batch.with_latents(*x))
    return prediction.video, prediction.audio
