"""Regression onto the teacher's ODE: the plain distillation to compare with, the warm start of a student (section 4.3,
arXiv:2412.07772), and beside distribution matching the first DMD (arXiv:2311.18828).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import torch

from hh_train.flow.guidance import Guidance
from hh_train.flow.losses import ClipSums, squared_error
from hh_train.flow.path import clean_from_velocity
from hh_train.flow.solvers import State, euler_states
from hh_train.inference.guided import GuidedVelocity, keeping_given
from hh_train.training.dmd2.turn import Objective, Turn, named
from hh_train.training.flow_matching import sums_per_clip, weighted_objective


@dataclass(frozen=True, kw_only=True)
class OdeRegression:
    """From states of the guided teacher's walk at the student's noise levels, the student predicts where it ends.

    Args:
        guidance: of the teacher.
        steps_between: Euler steps from one of the student's levels to the next.
        levels_per_walk: how many of the student's levels are learnt from each walk: the exit's, and others at even
            distances.
        weight: of this objective.
    """

    guidance: Guidance = field(default_factory=Guidance)
    steps_between: int = 4
    levels_per_walk: int = 2
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.steps_between < 1 or self.levels_per_walk < 1:
            raise ValueError(f"want 1 or more of steps_between and levels_per_walk, got {self}")

    def __call__(self, turn: Turn) -> Objective:
        """The student's."""
        states = self.walk(turn)
        end, sums = states[-1], []
        for step in self._steps(turn):
            prediction = turn.networks.student(turn.batch.with_latents(*states[step]))
            t = turn.sampler.noise_levels[step]
            errors = (
                squared_error(clean_from_velocity(states[step][0], prediction.video, t), end[0]),
                squared_error(clean_from_velocity(states[step][1], prediction.audio, t), end[1]),
            )
            sums.append(sums_per_clip(errors, turn.batch))
        losses = {modality: _joined([one[modality] for one in sums]) for modality in sums[0]}
        return Objective(
            value=self.weight * weighted_objective(losses, turn.weights), losses=named("regression", losses)
        )

    def num_passes(self, turn: Turn) -> int:
        """The walk, and each level's forward and backward pass."""
        walk = turn.sampler.num_steps * self.steps_between * (1 if self.guidance.is_none else 2)
        return walk + 3 * len(self._steps(turn))

    @torch.no_grad()
    def walk(self, turn: Turn) -> list[State]:
        """The teacher's states at the student's noise levels, the last one clean."""
        velocity = GuidedVelocity(turn.networks.teacher, turn.batch, guidance=self.guidance, null_text=turn.null_text)
        levels = turn.sampler.noise_levels
        grid = [
            high + (low - high) * part / self.steps_between
            for high, low in pairwise(levels)
            for part in range(self.steps_between)
        ]
        noise = turn.noise("regression").gaussian()
        return euler_states(velocity, noise, [*grid, levels[-1]], keep=keeping_given(turn.batch))[:: self.steps_between]

    def _steps(self, turn: Turn) -> list[int]:
        """Of the student's sampler."""
        num_steps = turn.sampler.num_steps
        count = min(self.levels_per_walk, num_steps)
        return sorted((turn.exit_at.step + index * num_steps // count) % num_steps for index in range(count))


def _joined(sums: list[ClipSums]) -> ClipSums:
    """Of all levels together."""
    return ClipSums(total=torch.cat([one.total for one in sums]), count=torch.cat([one.count for one in sums]))
