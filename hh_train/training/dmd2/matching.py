"""Distribution matching: what pulls the student's samples from the critic's distribution to the guided teacher's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from hh_train.flow.guidance import Guidance
from hh_train.flow.noise_levels import NoiseLevelDistribution, ShiftedUniform
from hh_train.flow.path import clean_from_velocity
from hh_train.flow.solvers import State
from hh_train.inference.guided import GuidedVelocity
from hh_train.training.dmd2.losses import Distance, distribution_matching_gradient, distribution_matching_loss
from hh_train.training.dmd2.turn import Objective, Turn, named
from hh_train.training.flow_matching import (
    GENERATED,
    NoisedPack,
    common_mean_objective,
    sums_per_clip,
    weighted_objective,
)

Normalization = Literal["per_modality", "shared", "none"]
JudgedLevels = Literal["all", "above_next_step"]


@runtime_checkable
class Restrictable(Protocol):
    """A distribution of noise levels that can be restricted to those above one."""

    def above(self, level: float) -> NoiseLevelDistribution: ...


def _each_its_own(video: Distance, audio: Distance) -> tuple[Tensor, Tensor]:
    return video.mean, audio.mean


def _one_for_both(video: Distance, audio: Distance) -> tuple[Tensor, Tensor]:
    both = (video + audio).mean
    return both, both


def _ones(video: Distance, audio: Distance) -> tuple[Tensor, Tensor]:
    return torch.ones_like(video.total), torch.ones_like(audio.total)


NORMALIZERS: Mapping[Normalization, Callable[[Distance, Distance], tuple[Tensor, Tensor]]] = {
    "per_modality": _each_its_own,
    "shared": _one_for_both,
    "none": _ones,
}


@dataclass(frozen=True, kw_only=True)
class DistributionMatching:
    """The gradient of an approximate KL divergence, from the scores of critic and teacher on the noised sample.

    Args:
        guidance: of the teacher; the critic has none.
        noise_levels: at which both judge.
        normalization: the gradient is divided by the mean |sample - teacher's prediction| of each clip and modality, or
            of each clip with all elements of both modalities in one mean (the loss then is one mean too, in which
            audio is the hundredth part that it is of the elements), or by nothing.
        judged_levels: "above_next_step" judges a sample only at levels that its next re-noising reaches or exceeds.
        weight: of this objective.
    """

    guidance: Guidance = field(default_factory=Guidance)
    noise_levels: NoiseLevelDistribution = field(default_factory=ShiftedUniform)
    normalization: Normalization = "per_modality"
    judged_levels: JudgedLevels = "all"
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.judged_levels == "above_next_step" and not isinstance(self.noise_levels, Restrictable):
            raise ValueError(
                f"got judged_levels above_next_step with {type(self.noise_levels).__name__}, which cannot be "
                "restricted: use ShiftedUniform, or judge at all levels"
            )

    def __call__(self, turn: Turn) -> Objective:
        """The student's."""
        gradients = self.gradients(turn)
        values = (
            distribution_matching_loss(turn.generated[0], gradients[0]),
            distribution_matching_loss(turn.generated[1], gradients[1]),
        )
        losses = sums_per_clip(values, turn.batch)
        if self.normalization == "shared":
            value = common_mean_objective(losses, turn.weights, [x.shape[1] for x in turn.generated])
        else:
            value = weighted_objective(losses, turn.weights)
        distances = sums_per_clip((gradients[0].abs().mean(-1), gradients[1].abs().mean(-1)), turn.batch)
        return Objective(
            value=self.weight * value, losses={**named("", losses), **named("critic_to_teacher", distances)}
        )

    def num_passes(self, turn: Turn) -> int:  # noqa: ARG002
        """Teacher and critic."""
        return 2 if self.guidance.is_none else 3

    @torch.no_grad()
    def gradients(self, turn: Turn) -> State:
        """From what the guided teacher makes of the noised sample to what the critic makes of it, normalized.

        Zero for tokens that are given.
        """
        batch, sample = turn.batch, turn.sample
        pack = NoisedPack.draw(batch, sample, turn.noise("matching"), self._levels(turn.next_level))
        teacher = GuidedVelocity(turn.networks.teacher, batch, guidance=self.guidance, null_text=turn.null_text)
        teacher_velocity = teacher(pack.state, pack.levels)
        prediction = turn.networks.critic(batch.with_latents(*pack.state))
        critic_clean = _clean(pack, (prediction.video, prediction.audio), (batch.video_clip, batch.audio_clip))
        teacher_clean = _clean(pack, teacher_velocity, (batch.video_clip, batch.audio_clip))
        clip = (batch.video_clip, batch.audio_clip)
        counted = (~batch.video_is_given, ~batch.audio_is_given)
        distances = [
            Distance.between(sample[m], teacher_clean[m], counted[m], clip[m], num_clips=batch.num_clips)
            for m in GENERATED
        ]
        normalizers = NORMALIZERS[self.normalization](*distances)
        video, audio = (
            distribution_matching_gradient(critic_clean[m], teacher_clean[m], normalizers[m], clip[m])
            * counted[m][:, None]
            for m in GENERATED
        )
        return video, audio

    def _levels(self, next_level: float) -> NoiseLevelDistribution:
        if self.judged_levels == "above_next_step" and isinstance(self.noise_levels, Restrictable):
            return self.noise_levels.above(next_level)
        return self.noise_levels


def _clean(pack: NoisedPack, velocity: State, clip: tuple[Tensor, Tensor]) -> State:
    video, audio = (
        clean_from_velocity(pack.state[m].double(), velocity[m].double(), pack.levels[clip[m]].double()[:, None])
        for m in GENERATED
    )
    return video, audio
