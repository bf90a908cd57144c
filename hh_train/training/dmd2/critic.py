"""The critic's own objective: flow matching on what the student generates."""

from __future__ import annotations

from dataclasses import dataclass, field

from hh_train.flow.noise_levels import NoiseLevelDistribution, ShiftedUniform
from hh_train.training.dmd2.turn import Objective, Turn, named
from hh_train.training.flow_matching import NoisedPack, flow_matching_losses, weighted_objective


@dataclass(frozen=True, kw_only=True)
class CriticFlow:
    """Keeps the critic's score that of the student's distribution (section 4.2, arXiv:2405.14867). No guidance.

    Args:
        noise_levels: at which the critic learns.
        weight: of this objective.
    """

    noise_levels: NoiseLevelDistribution = field(default_factory=ShiftedUniform)
    weight: float = 1.0

    def __call__(self, turn: Turn) -> Objective:
        pack = NoisedPack.draw(turn.batch, turn.sample, turn.noise("critic"), self.noise_levels)
        losses = flow_matching_losses(turn.networks.critic, turn.batch, pack)
        return Objective(value=self.weight * weighted_objective(losses, turn.weights), losses=named("", losses))

    def num_passes(self, turn: Turn) -> int:  # noqa: ARG002
        """Forward and backward."""
        return 3
