"""Backward simulation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from hh_train.data.packing import pack
from hh_train.flow.clip_noise import ClipNoise
from hh_train.flow.solvers import RenoiseSolver
from hh_train.model.transformer import SandwichTransformer
from hh_train.training.dmd2.rollout import BackwardSimulation
from hh_train.types import LatentClip, PackedBatch, Prediction

PATCH = (1, 2, 2)
Make = Callable[..., LatentClip]


def test_exits_follow_their_probabilities() -> None:
    rollout = BackwardSimulation(sampler=RenoiseSolver(num_steps=4), exit_probabilities=[0.5, 0.0, 0.25, 0.25])
    exits = torch.tensor([rollout.exit_step(seed=0, step=step) for step in range(2000)])
    shares = torch.bincount(exits, minlength=4) / 2000
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.0, 0.25, 0.25]), atol=0.04, rtol=0)


def test_gradients_flow_through_the_last_evaluation_alone(tiny_model: SandwichTransformer, make_clip: Make) -> None:
    batch = pack([make_clip("a"), make_clip("b")], patch=PATCH)
    rollout = BackwardSimulation(sampler=RenoiseSolver(num_steps=4))
    graded: list[bool] = []

    def student(packed: PackedBatch) -> Prediction:
        graded.append(torch.is_grad_enabled())
        return tiny_model(packed)

    generated = rollout(student, batch, ClipNoise(batch, seed=0, purpose="test"), exit_step=2)
    assert graded == [False, False, True] and generated[0].requires_grad
    with torch.no_grad():
        assert not rollout(student, batch, ClipNoise(batch, seed=0, purpose="test"), exit_step=0)[0].requires_grad


def test_the_last_exit_is_what_the_sampler_generates(tiny_model: SandwichTransformer, make_clip: Make) -> None:
    batch = pack([make_clip("a")], patch=PATCH)
    sampler = RenoiseSolver(num_steps=3)

    def velocity(x: tuple, t: float) -> tuple:
        prediction = tiny_model(batch.with_latents(*x))
        return prediction.video, prediction.audio

    with torch.no_grad():
        rolled = BackwardSimulation(sampler=sampler)(
            tiny_model, batch, ClipNoise(batch, seed=0, purpose="p"), exit_step=2
        )
        sampled = sampler(velocity, ClipNoise(batch, seed=0, purpose="p").gaussian, keep=lambda x: x)
    assert torch.equal(rolled[0], sampled[0]) and torch.equal(rolled[1], sampled[1])


def test_given_tokens_stay_and_other_data_does_not_enter(tiny_model: SandwichTransformer, make_clip: Make) -> None:
    rollout = BackwardSimulation(sampler=RenoiseSolver(num_steps=2))

    def rolled(seed: int) -> tuple[PackedBatch, torch.Tensor]:
        batch = pack([make_clip("a", num_given_frames=1, seed=seed)], patch=PATCH)
        with torch.no_grad():
            return batch, rollout(tiny_model, batch, ClipNoise(batch, seed=0, purpose="p"), exit_step=1)[0]

    batch, video = rolled(0)
    assert torch.equal(video[batch.video_is_given], batch.video[batch.video_is_given])
    first, other = (pack([make_clip("a", seed=seed)], patch=PATCH) for seed in (0, 1))
    other = replace(other, text=first.text)
    with torch.no_grad():
        results = [rollout(tiny_model, b, ClipNoise(b, seed=0, purpose="p"), exit_step=1)[0] for b in (first, other)]
    assert torch.equal(results[0], results[1])


@pytest.mark.parametrize("probabilities", [[0.5, 0.5], [0.5, 0.5, 0.5, -0.5], [0.3] * 4])
def test_impossible_probabilities(probabilities: list[float]) -> None:
    with pytest.raises(ValueError, match="want 4 exit probabilities"):
        BackwardSimulation(sampler=RenoiseSolver(num_steps=4), exit_probabilities=probabilities)
