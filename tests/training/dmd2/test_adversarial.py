"""The adversarial losses, their gradients, and who gets them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hh_train.data.packing import pack
from hh_train.flow.clip_noise import ClipNoise
from hh_train.flow.solvers import RenoiseSolver
from hh_train.training.dmd2.adversarial import (
    Adversarial,
    AdversarialCritic,
    AdversarialStudent,
    approximate_r1,
    discriminator_loss,
    generator_loss,
)
from hh_train.training.dmd2.discriminator import Discriminator
from hh_train.training.dmd2.rollout import Exit
from hh_train.training.dmd2.turn import Turn
from hh_train.types import LatentClip, Modality, PackedBatch

LOGITS = torch.tensor([-3.0, -0.5, 0.0, 2.0])


class LinearDiscriminator(Discriminator):
    """The mean over a clip's tokens of their product with a vector, and a bias: gradients are known."""

    def __init__(self, vector: Tensor) -> None:
        nn.Module.__init__(self)
        self.vector = nn.Parameter(vector)

    def forward(self, hidden: Sequence[Tensor], batch: PackedBatch) -> tuple[Tensor, Tensor]:
        video, audio, _ = hidden[0].split(batch.modality_counts)
        return tuple((tokens @ self.vector).unflatten(0, (batch.num_clips, -1)).mean(1) for tokens in (video, audio))


@dataclass(frozen=True)
class Tokens:
    """The tokens themselves instead of hidden states."""

    def __call__(self, batch: PackedBatch) -> list[Tensor]:
        return [torch.cat([batch.video, batch.audio, torch.zeros(len(batch.text), batch.video.shape[1])])]


@pytest.fixture
def turn(toys: Any) -> Turn:
    batch = toys.batch(3, num_clips=2)
    generator = torch.Generator().manual_seed(0)
    batch = batch.with_latents(*(torch.randn(x.shape, generator=generator) for x in (batch.video, batch.audio)))
    generated = tuple(torch.randn(x.shape, generator=generator).requires_grad_() for x in (batch.video, batch.audio))
    networks = toys.trio(student=toys.network(), critic=toys.network(), teacher=toys.network())
    return Turn(
        networks=networks,
        null_text=torch.zeros(1, 1),
        batch=batch,
        make_sample=lambda: generated,
        trains_student=True,
        sampler=RenoiseSolver(num_steps=1),
        exit_at=Exit(0),
        noise=lambda purpose: ClipNoise(batch, seed=0, purpose=purpose),
        weights={Modality.VIDEO: 1.0, Modality.AUDIO: 2.0},
    )


def parts(toys: Any, **settings: Any) -> dict[str, Any]:
    return {
        "settings": Adversarial(noise_levels=toys.one_level, **settings),
        "discriminator": LinearDiscriminator(torch.tensor([1.0, -2.0])),
        "hidden_states": Tokens(),
    }


def test_losses_are_cross_entropies() -> None:
    bce = nn.functional.binary_cross_entropy_with_logits
    ones, zeros = torch.ones(4), torch.zeros(4)
    torch.testing.assert_close(generator_loss(LOGITS), bce(LOGITS, ones, reduction="none"))
    both = bce(LOGITS, zeros, reduction="none") + bce(LOGITS.flip(0), ones, reduction="none")
    torch.testing.assert_close(discriminator_loss(LOGITS, LOGITS.flip(0)), both)


def test_gradients_of_the_losses() -> None:
    """-sigmoid(-D) for the generator; sigmoid(D) and -sigmoid(-D) for the discriminator on fake and real."""
    fake, real = LOGITS.clone().requires_grad_(), LOGITS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(generator_loss(fake).sum(), fake)
    torch.testing.assert_close(gradient, -torch.sigmoid(-LOGITS))
    gradients = torch.autograd.grad(discriminator_loss(fake, real).sum(), (fake, real))
    torch.testing.assert_close(gradients[0], torch.sigmoid(LOGITS))
    torch.testing.assert_close(gradients[1], -torch.sigmoid(-LOGITS))


def test_approximate_r1_is_the_squared_gradient_of_a_linear_logit() -> None:
    generator = torch.Generator().manual_seed(0)
    vector, x = torch.tensor([3.0, -4.0]), torch.randn(20_000, 2, generator=generator)
    noise = 0.1 * torch.randn(20_000, 2, generator=generator)
    penalties = approximate_r1(x @ vector, (x + noise) @ vector, noise_std=0.1)
    assert float(penalties.mean()) == pytest.approx(25.0, rel=0.05)


def test_the_student_gets_the_discriminators_gradient_and_nobody_else_any(turn: Turn, toys: Any) -> None:
    """d/dx of -log D of the noised sample: -sigmoid(-logit) (1 - t) vector / tokens, a mean over the clips."""
    student = AdversarialStudent(**parts(toys, student_weight=0.5))
    objective = student(turn)
    objective.value.backward()
    assert student.discriminator.vector.grad is None
    draws = turn.noise("adversarial")
    draws.levels(toys.one_level)
    noise, t = draws.gaussian(), toys.level
    for m, weight in ((0, 1.0), (1, 2.0)):
        logits = (((1 - t) * turn.sample[m] + t * noise[m]) @ torch.tensor([1.0, -2.0])).unflatten(0, (2, 3)).mean(1)
        by_logit = -0.5 * weight * torch.sigmoid(-logits) / 2
        expected = by_logit[turn.batch.video_clip, None] * (1 - t) * torch.tensor([1.0, -2.0]) / 3
        torch.testing.assert_close(turn.generated[m].grad, expected.detach())
        sums = objective.losses[("adversarial_video", "adversarial_audio")[m]]
        torch.testing.assert_close(sums.total, nn.functional.softplus(-logits.detach()))


def test_the_discriminator_learns_to_tell_real_from_generated(turn: Turn, toys: Any) -> None:
    critic = AdversarialCritic(**parts(toys, critic_weight=1.0))
    moved = (turn.sample[0] + 3.0, turn.sample[1] + 3.0)
    turn = replace(turn, make_sample=lambda: moved)
    optimizer = torch.optim.SGD(critic.discriminator.parameters(), lr=0.3)
    for _ in range(50):
        optimizer.zero_grad()
        objective = critic(turn)
        objective.value.backward()
        optimizer.step()
    real, fake = (objective.losses[f"logit_{name}_video"].mean() for name in ("real", "fake"))
    assert real > fake + 1
    assert objective.losses["discriminator_video"].mean() < 2 * 0.6931 - 0.3  # a blind one loses 2 log 2


def test_the_gradient_penalty_is_of_real_clips_and_weighted(turn: Turn, toys: Any) -> None:
    plain = AdversarialCritic(**parts(toys, critic_weight=0.0))(turn)
    assert "r1_video" not in plain.losses
    penalized = AdversarialCritic(**parts(toys, critic_weight=0.0, r1_weight=2.0))(turn)
    means = {name: float(penalized.losses[f"r1_{name}"].mean().detach()) for name in ("video", "audio")}
    assert min(means.values()) > 0
    assert float(penalized.value.detach()) == pytest.approx(2.0 * (means["video"] + 2.0 * means["audio"]), rel=1e-5)
    other = AdversarialCritic(**parts(toys, critic_weight=0.0, r1_weight=2.0))(
        replace(turn, make_sample=lambda: (turn.sample[0] + 9, turn.sample[1] + 9))
    )
    assert torch.equal(other.value, penalized.value)


def test_clips_with_nothing_to_judge_do_not_count(toys: Any, make_clip: Callable[..., LatentClip], turn: Turn) -> None:
    batch = pack([make_clip("a"), make_clip("b", audio_is_given=True), make_clip("c", video=None)], patch=(1, 2, 2))
    discriminator = Discriminator(hidden_size=6, num_layers=1, width=8, num_heads=2, seed=0)

    def hidden(at: PackedBatch) -> list[Tensor]:
        return [torch.cat([at.video[:, :5].sum(1, keepdim=True).repeat(1, 6), at.audio.repeat(1, 2)[:, :6],
                           torch.zeros(len(at.text), 6)])]  # fmt: skip

    at = replace(
        turn,
        batch=batch,
        make_sample=lambda: (
            torch.randn_like(batch.video).requires_grad_(),
            torch.randn_like(batch.audio).requires_grad_(),
        ),
        noise=lambda purpose: ClipNoise(batch, seed=0, purpose=purpose),
    )
    student = AdversarialStudent(settings=Adversarial(), discriminator=discriminator, hidden_states=hidden)
    objective = student(at)
    assert objective.losses["adversarial_video"].count.tolist() == [1, 1, 0]
    assert objective.losses["adversarial_audio"].count.tolist() == [1, 0, 1]
    objective.value.backward()
    moved = at.generated[1].grad.abs().sum(1) > 0
    assert torch.equal(moved, ~batch.audio_is_given)


@pytest.mark.parametrize("layers", [[], [4], [-1]])
def test_layers_that_are_not_there(layers: list[int]) -> None:
    with pytest.raises(ValueError, match="wanted some of 0 to 3"):
        Adversarial(layers=layers).layers_of(4)


def test_the_layer_after_two_thirds_of_the_stack() -> None:
    assert Adversarial().layers_of(40) == (26,)


@pytest.mark.parametrize("fields", [{"student_weight": -1.0}, {"r1_noise": 0.0}])
def test_impossible_weights(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="want weights of 0 or more"):
        Adversarial(**fields)
