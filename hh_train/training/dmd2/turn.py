"""What the objectives of one batch see, and what they answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from hh_train.flow.clip_noise import ClipNoise
from hh_train.flow.losses import ClipSums
from hh_train.flow.solvers import RenoiseSolver, State
from hh_train.inference.guided import Model
from hh_train.training.dmd2.rollout import Exit
from hh_train.types import Modality, PackedBatch


@runtime_checkable
class Networks(Protocol):
    """The three networks as functions of a pack."""

    @property
    def student(self) -> Model: ...

    @property
    def critic(self) -> Model: ...

    @property
    def teacher(self) -> Model: ...


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One batch of a turn."""

    networks: Networks
    null_text: Float[Tensor, "Nt Ct"]
    """Text features of the null prompt, for the teacher's guidance."""
    batch: PackedBatch
    """The data, whose given tokens the student has kept."""
    make_sample: Callable[[], State]
    """Rolls the student out; called once, if any objective looks at its samples."""
    trains_student: bool
    """Whether the samples have a graph, whoever looks at them first."""
    sampler: RenoiseSolver
    """The student's."""
    exit_at: Exit
    """Where its rollout ends."""
    noise: Callable[[str], ClipNoise]
    """A stream of noise for each purpose: what one objective draws is nothing to another."""
    weights: Mapping[Modality, float]

    @cached_property
    def generated(self) -> State:
        """The student's clean video and audio tokens."""
        with torch.set_grad_enabled(self.trains_student):
            return self.make_sample()

    @property
    def next_level(self) -> float:
        """The noise level that the student's sampler would take them to: 0 after the last step."""
        return self.sampler.noise_levels[self.exit_at.step + 1]

    @property
    def sample(self) -> State:
        """The same without their graph."""
        return self.generated[0].detach(), self.generated[1].detach()


@dataclass(frozen=True)
class Objective:
    """A scalar to descend, and what to log beside it: losses with their numbers of tokens or clips, and values."""

    value: Float[Tensor, ""]
    losses: Mapping[str, ClipSums] = field(default_factory=dict)
    values: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def total(cls, objectives: list[Objective]) -> Objective:
        """Their sum."""
        return cls(
            value=torch.stack([objective.value for objective in objectives]).sum(),
            losses={name: sums for objective in objectives for name, sums in objective.losses.items()},
            values={name: value for objective in objectives for name, value in objective.values.items()},
        )


@runtime_checkable
class Part(Protocol):
    """One of the objectives of a network."""

    def __call__(self, turn: Turn) -> Objective: ...

    def num_passes(self, turn: Turn) -> int:
        """What it takes in forward passes over the batch; the backward pass of a whole network is two of them."""
        ...


def named(prefix: str, losses: Mapping[Modality, ClipSums]) -> dict[str, ClipSums]:
    """Losses by `prefix_modality`, or by the modality alone without a prefix."""
    return {f"{prefix}{'_' if prefix else ''}{modality.name.lower()}": sums for modality, sums in losses.items()}
