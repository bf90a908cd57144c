"""The student's gradient: from scores in closed form, and what each setting changes about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from hh_train.data.packing import pack
from hh_train.flow.clip_noise import ClipNoise
from hh_train.flow.guidance import Guidance
from hh_train.flow.noise_levels import LogitNormal, ShiftedUniform
from hh_train.flow.solvers import RenoiseSolver
from hh_train.model.transformer import SandwichTransformer
from hh_train.training.dmd2.matching import DistributionMatching
from hh_train.training.dmd2.rollout import Exit
from hh_train.training.dmd2.turn import Turn
from hh_train.types import LatentClip, Modality, PackedBatch, Prediction

Make = Callable[..., LatentClip]


@pytest.fixture
def turn(toys: Any) -> Callable[..., Turn]:
    """A batch with samples of large audio, between a critic and a teacher that are two Gaussians or are given."""

    def make(batch: PackedBatch | None = None, networks: Any = None, **changes: Any) -> Turn:
        batch = toys.batch(3, num_clips=2) if batch is None else batch
        generator = torch.Generator().manual_seed(4)
        generated = (
            torch.randn(batch.video.shape, generator=generator),
            3 * torch.randn(batch.audio.shape, generator=generator),
        )
        critic, teacher = (toys.mixture(torch.tensor([m]), 0.6).model for m in ([0.0, 0.0], [1.0, 2.0]))
        arguments = {
            "networks": toys.trio(student=teacher, critic=critic, teacher=teacher) if networks is None else networks,
            "null_text": torch.zeros(1, batch.text.shape[1]),
            "batch": batch,
            "make_sample": lambda: (generated[0].requires_grad_(), generated[1].requires_grad_()),
            "trains_student": True,
            "sampler": RenoiseSolver(num_steps=2, levels=[1.0, 0.75, 0.0]),
            "exit_at": Exit(1),
            "noise": lambda purpose: ClipNoise(batch, seed=0, purpose=purpose),
            "weights": {Modality.VIDEO: 1.0, Modality.AUDIO: 1.0},
        }
        return Turn(**(arguments | changes))

    return make


def matching(toys: Any, **settings: Any) -> DistributionMatching:
    return DistributionMatching(noise_levels=toys.one_level, **settings)


def test_the_gradient_is_the_difference_of_the_analytic_scores(turn: Callable[..., Turn], toys: Any) -> None:
    """By Tweedie's formula E[clean | x] = (x + t^2 score) / (1 - t), so critic - teacher = t^2 / (1 - t) times the
    difference of scores: the gradient of the KL divergence between the noised distributions.
    """
    critic, teacher = (toys.mixture(torch.tensor(m), 0.6) for m in ([[0.0, 0.0]], [[2.0, 0.0], [-2.0, 1.0]]))
    at = turn(networks=toys.trio(student=critic.model, critic=critic.model, teacher=teacher.model))
    gradients = matching(toys, normalization="none").gradients(at)
    draws = at.noise("matching")
    draws.levels(toys.one_level)
    noise, t = draws.gaussian(), toys.level
    for m in range(2):
        x = (1 - t) * at.sample[m] + t * noise[m]
        expected = t**2 / (1 - t) * (critic.score(x) - teacher.score(x))
        torch.testing.assert_close(gradients[m], expected, atol=1e-5, rtol=1e-4)


def test_the_objective_hands_each_modality_its_gradient_over_its_elements(turn: Callable[..., Turn], toys: Any) -> None:
    at = turn(weights={Modality.VIDEO: 1.0, Modality.AUDIO: 3.0})
    objective = matching(toys, weight=2.0)
    objective(at).value.backward()
    gradients = objective.gradients(at)
    for m, weight in ((0, 2.0), (1, 6.0)):
        torch.testing.assert_close(at.generated[m].grad, weight * gradients[m] / gradients[m].numel())


def scaled(toys: Any, turn: Callable[..., Turn], audio_scale: float, **settings: Any) -> tuple[float, float]:
    """Mean size of each modality's gradient when everything about the audio is so much larger."""

    def network(mean: float) -> Callable[[PackedBatch], Prediction]:
        def velocity(batch: PackedBatch) -> Prediction:
            return Prediction(video=batch.video - mean, audio=audio_scale * (batch.audio / audio_scale - mean))

        return velocity

    at = turn(networks=toys.trio(student=network(0.0), critic=network(0.2), teacher=network(1.0)))
    noise = at.noise("matching")
    noise.levels(toys.one_level)
    # the noise cannot be scaled: a sample that holds the difference makes the noised audio an exact multiple
    audio = at.sample[1] * audio_scale + (audio_scale - 1) * noise.gaussian()[1]
    video = at.sample[0]
    at = replace(at, make_sample=lambda: (video, audio))
    gradients = matching(toys, **settings).gradients(at)
    return float(gradients[0].abs().mean()), float(gradients[1].abs().mean())


def test_a_normalizer_per_modality_leaves_neither_to_the_scale_of_the_other(
    turn: Callable[..., Turn], toys: Any
) -> None:
    plain, large = (scaled(toys, turn, scale) for scale in (1.0, 100.0))
    assert large[0] == pytest.approx(plain[0], rel=1e-6)
    assert 0.2 < large[1] / plain[1] < 5  # not a hundred
    shared = scaled(toys, turn, 100.0, normalization="shared")
    assert shared[0] < 0.1 * plain[0]
    none = scaled(toys, turn, 100.0, normalization="none")
    assert none[1] == pytest.approx(100 * none[0], rel=0.01)


def test_a_shared_mean_weighs_modalities_by_their_elements(turn: Callable[..., Turn], toys: Any) -> None:
    clip = LatentClip(key="a", video=torch.zeros(2, 9, 1, 1), audio=torch.zeros(1, 2), text=torch.zeros(1, 1))
    at = turn(pack([clip], patch=(1, 1, 1)))
    objective = matching(toys, normalization="shared")
    objective(at).value.backward()
    gradients = objective.gradients(at)
    for m in range(2):
        torch.testing.assert_close(at.generated[m].grad, gradients[m] / 20)  # all elements of both


def test_given_tokens_have_no_gradient_and_no_say(turn: Callable[..., Turn], toys: Any) -> None:
    def clip(value: float) -> LatentClip:
        video = torch.zeros(2, 3, 1, 1)
        video[:, 0] = value
        return LatentClip(key="a", video=video, audio=torch.zeros(2, 2), text=torch.zeros(1, 1), num_given_frames=1)

    gradients = [matching(toys).gradients(turn(pack([clip(value)], patch=(1, 1, 1)))) for value in (0.0, 50.0)]
    assert gradients[0][0][0].abs().max() == 0 and gradients[0][0][1:].abs().min() > 0
    assert torch.equal(gradients[0][0], gradients[1][0])  # the networks look at each token by itself


def test_equal_networks_give_no_direction_without_guidance_and_one_with_it(
    tiny_model: SandwichTransformer, make_clip: Make, turn: Callable[..., Turn], toys: Any
) -> None:
    batch = pack([make_clip("a")], patch=(1, 2, 2))
    trio = toys.trio(student=tiny_model, critic=tiny_model, teacher=tiny_model)
    sizes = {}
    for scale in (1.0, 3.0):
        objective = DistributionMatching(guidance=Guidance(video=scale, audio=scale))
        gradients = objective.gradients(turn(batch, trio))
        sizes[scale] = [float(gradient.abs().max()) for gradient in gradients]
    assert max(sizes[1.0]) < 1e-4
    assert min(sizes[3.0]) > 1e-2


def test_guidance_moves_the_teacher_linearly(
    tiny_model: SandwichTransformer, make_clip: Make, turn: Callable[..., Turn], toys: Any
) -> None:
    """uncond + w (cond - uncond) is cond at w = 1 and changes by as much from 1 to 2 as from 2 to 3."""
    batch = pack([make_clip("a")], patch=(1, 2, 2))
    trio = toys.trio(student=tiny_model, critic=tiny_model, teacher=tiny_model)
    two, three = (
        DistributionMatching(guidance=Guidance(video=w, audio=w), normalization="none").gradients(turn(batch, trio))
        for w in (2.0, 3.0)
    )
    for m in range(2):
        torch.testing.assert_close(three[m], 2 * two[m], atol=1e-4, rtol=1e-3)


def test_samples_are_judged_where_the_sampler_takes_them_next(turn: Callable[..., Turn], toys: Any) -> None:
    seen: list[float] = []

    class Recording:
        def sample(self, num_clips: int, generator: torch.Generator | None = None) -> torch.Tensor:
            raise AssertionError("not restricted")

        def above(self, level: float) -> ShiftedUniform:
            seen.append(level)
            return ShiftedUniform(shift=1.0).above(level)

    restricted = DistributionMatching(noise_levels=Recording(), judged_levels="above_next_step")
    for step in range(2):
        restricted.gradients(turn(exit_at=Exit(step)))
    assert seen == [0.75, 0.0]


def test_levels_that_cannot_be_restricted() -> None:
    with pytest.raises(ValueError, match="LogitNormal, which cannot be restricted"):
        DistributionMatching(noise_levels=LogitNormal(), judged_levels="above_next_step")
