"""The adversarial objectives: generated clips are to look real to a discriminator (section 4.3, arXiv:2405.14867)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hh_train.flow.losses import ClipSums
from hh_train.flow.noise_levels import NoiseLevelDistribution, ShiftedUniform
from hh_train.flow.solvers import State
from hh_train.training.dmd2.discriminator import Discriminator
from hh_train.training.dmd2.turn import Objective, Turn, named
from hh_train.training.flow_matching import GENERATED, NoisedPack, weighted_objective
from hh_train.types import Modality, PackedBatch

HiddenStates = Callable[[PackedBatch], Sequence[Tensor]]
"""Hidden states of the layers that are read, grouped by modality."""


def generator_loss(fake: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """-log D, D the sigmoid of the logit: does not saturate where the discriminator is sure (arXiv:1406.2661)."""
    return F.softplus(-fake)


def discriminator_loss(fake: Float[Tensor, " B"], real: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """-log(1 - D(fake)) - log D(real)."""
    return F.softplus(fake) + F.softplus(-real)


def approximate_r1(
    real: Float[Tensor, " B"], disturbed: Float[Tensor, " B"], *, noise_std: float
) -> Float[Tensor, " B"]:
    """Squared change of the logit under noise on its input, over the noise's variance: in the limit of little noise its
    mean is the squared gradient (Eq. 6, arXiv:2501.08316). Needs no second derivatives.
    """
    return (real - disturbed).square() / noise_std**2


@dataclass(frozen=True, kw_only=True)
class Adversarial:
    """Whether and how a discriminator takes part.

    Args:
        student_weight, critic_weight: of the objectives of the student, and of discriminator and critic.
        features: whose hidden states the discriminator reads. The critic's are trained for it too, the teacher's stay.
        layers: which, counted from 0; None reads the one after two thirds of the stack.
        noise_levels: real and generated clips are noised before they are judged.
        r1_weight: of the gradient penalty on real clips; 0 spares its pass.
        r1_noise: standard deviation of the noise that estimates it.
        width, num_heads: of the discriminator.
    """

    student_weight: float = 3e-3
    critic_weight: float = 1e-2
    features: Literal["critic", "teacher"] = "critic"
    layers: Sequence[int] | None = None
    noise_levels: NoiseLevelDistribution = field(default_factory=ShiftedUniform)
    r1_weight: float = 0.0
    r1_noise: float = 0.05
    width: int = 128
    num_heads: int = 4

    def __post_init__(self) -> None:
        if min(self.student_weight, self.critic_weight, self.r1_weight) < 0 or self.r1_noise <= 0:
            raise ValueError(f"want weights of 0 or more and a positive r1_noise, got {self}")

    def layers_of(self, num_layers: int) -> tuple[int, ...]:
        """The layers to read in a stack of so many. Raises ValueError for one that it does not have."""
        layers = (2 * num_layers // 3,) if self.layers is None else tuple(self.layers)
        if not layers or min(layers) < 0 or max(layers) >= num_layers:
            raise ValueError(f"got adversarial layers {list(layers)}, wanted some of 0 to {num_layers - 1}")
        return layers

    def discriminator(self, *, hidden_size: int, num_layers: int, seed: int) -> Discriminator:
        """For a transformer of so many channels and layers."""
        return Discriminator(
            hidden_size=hidden_size,
            num_layers=len(self.layers_of(num_layers)),
            width=self.width,
            num_heads=self.num_heads,
            seed=seed,
        )


@dataclass(frozen=True, kw_only=True)
class AdversarialStudent:
    """The student's side. Hands its gradient with respect to the sample on, so that no other network gets any."""

    settings: Adversarial
    discriminator: Discriminator
    hidden_states: HiddenStates

    def __call__(self, turn: Turn) -> Objective:
        leaves = (turn.sample[0].requires_grad_(), turn.sample[1].requires_grad_())
        pack = _noised(turn, leaves, self.settings.noise_levels)
        logits = _logits(self.discriminator, self.hidden_states, turn.batch, pack.state)
        losses = _per_clip((generator_loss(logits[0]), generator_loss(logits[1])), turn.batch)
        value = weighted_objective(losses, turn.weights)
        gradients = torch.autograd.grad(value, leaves, materialize_grads=True)
        products = [(x * gradient).sum() for x, gradient in zip(turn.generated, gradients, strict=True)]
        return Objective(
            value=self.settings.student_weight * torch.stack(products).sum(), losses=named("adversarial", losses)
        )

    def num_passes(self, turn: Turn) -> int:  # noqa: ARG002
        """Forward, and backward to the sample alone, up to the layers that are read."""
        return 2


@dataclass(frozen=True, kw_only=True)
class AdversarialCritic:
    """The side of the discriminator, and of the critic if it is the critic's hidden states that are read.

    A clip and its generated counterpart are noised alike: they differ in their origin alone.
    """

    settings: Adversarial
    discriminator: Discriminator
    hidden_states: HiddenStates

    def __call__(self, turn: Turn) -> Objective:
        batch = turn.batch
        real_pack = _noised(turn, (batch.video, batch.audio), self.settings.noise_levels)
        fake_pack = _noised(turn, turn.sample, self.settings.noise_levels)
        real, fake = (
            _logits(self.discriminator, self.hidden_states, batch, pack.state) for pack in (real_pack, fake_pack)
        )
        losses = _per_clip((discriminator_loss(fake[0], real[0]), discriminator_loss(fake[1], real[1])), batch)
        value = self.settings.critic_weight * weighted_objective(losses, turn.weights)
        logged = {**named("discriminator", losses), **named("logit_real", _per_clip(real, batch))}
        logged |= named("logit_fake", _per_clip(fake, batch))
        if self.settings.r1_weight:
            penalties = self._penalties(turn, real_pack.state, real)
            value = value + self.settings.r1_weight * weighted_objective(penalties, turn.weights)
            logged |= named("r1", penalties)
        return Objective(value=value, losses=logged)

    def num_passes(self, turn: Turn) -> int:  # noqa: ARG002
        """Real and generated clips, and the disturbed ones; backward too where it is the critic's states."""
        each = 3 if self.settings.features == "critic" else 1
        return each * (3 if self.settings.r1_weight else 2)

    def _penalties(self, turn: Turn, state: State, real: State) -> dict[Modality, ClipSums]:
        std, given = self.settings.r1_noise, (turn.batch.video_is_given, turn.batch.audio_is_given)
        noise = turn.noise("r1").gaussian()
        video, audio = (state[m] + std * noise[m] * ~given[m][:, None] for m in GENERATED)
        disturbed = _logits(self.discriminator, self.hidden_states, turn.batch, (video, audio))
        penalties = (
            approximate_r1(real[0], disturbed[0], noise_std=std),
            approximate_r1(real[1], disturbed[1], noise_std=std),
        )
        return _per_clip(penalties, turn.batch)


def _noised(turn: Turn, clean: State, noise_levels: NoiseLevelDistribution) -> NoisedPack:
    return NoisedPack.draw(turn.batch, clean, turn.noise("adversarial"), noise_levels)


def _logits(discriminator: Discriminator, hidden_states: HiddenStates, batch: PackedBatch, state: State) -> State:
    logits: State = discriminator(hidden_states(batch.with_latents(*state)), batch)
    return logits


def _per_clip(values: State, batch: PackedBatch) -> dict[Modality, ClipSums]:
    """Values of the clips that have something to judge in a modality."""
    counted = (~batch.video_is_given, ~batch.audio_is_given)
    clip = (batch.video_clip, batch.audio_clip)
    judged = [
        torch.zeros(batch.num_clips, device=values[m].device).index_add(0, clip[m], counted[m].float()) > 0
        for m in GENERATED
    ]
    return {m: ClipSums(total=values[m] * judged[m], count=judged[m].float()) for m in GENERATED}
