"""Backward simulation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from hh_train.data.packing import pack
from hh_train.flow.clip_noise import ClipNoise
from hh_train.flow.solvers import RenoiseSolver
from hh_train.model.transformer import SandwichTransformer
from hh_train.training.dmd2.rollout import BackwardSimulation, Exit
from hh_train.types import LatentClip, PackedBatch, Prediction

PATCH = (1, 2, 2)
Make = Callable[..., LatentClip]


def test_exits_follow_their_probabilities() -> None:
    rollout = BackwardSimulation(sampler=RenoiseSolver(num_steps=4), exit_probabilities=[0.5, 0.0, 0.25, 0.25])
    exits = torch.tensor([rollout.exit_at(seed=0, step=step).step for step in range(2000)])
    shares = torch.bincount(exits, minlength=4) / 2000
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.0, 0.25, 0.25]), atol=0.04, rtol=0)


def test_gradients_flow_through_the_last_evaluation_alone(tiny_model: SandwichTransformer, make_clip: Make) -> None:
    batch = pack([make_clip("a"), make_clip("b")], patch=PATCH)
    rollout = BackwardSimulation(sampler=RenoiseSolver(num_steps=4))
    graded: list[bool] = []

    def student(packed: PackedBatch) -> Prediction:
        graded.append(torch.is_grad_enabled())
        return tiny_model(packed)

    generated = rollout(student, batch, ClipNoise(batch, seed=0, purpose="test"), exit_at=Exit(2))
    assert graded == [False, False, True] and generated[0].requires_grad
    with torch.no_grad():
        assert not rollout(student, batch, ClipNoise(batch, seed=0, purpose="test"), exit_at=Exit(0))[0].requires_grad


def test_the_last_exit_is_what_the_sampler_generates(tiny_model: SandwichTransformer, make_clip: Make) -> None:
    batch = pack([make_clip("a")], patch=PATCH)
    sampler = RenoiseSolver(num_steps=3)

    def velocity(x: tuple, t: float) -> tuple:
        prediction = tiny_model(batch.with_latents(*x))
        return prediction.video, prediction.audio

    with torch.no_grad():
        rolled = BackwardSimulation(sampler=sampler)(
            tiny_model, batch, ClipNoise(batch, seed=0, purpose="p"), exit_at=Exit(2)
        )
        sampled = sampler(velocity, ClipNoise(batch, seed=0, purpose="p").gaussian, keep=lambda x: x)
    assert torch.equal(rolled[0], sampled[0]) and torch.equal(rolled[1], sampled[1])


def test_given_tokens_stay_and_other_data_does_not_enter(tiny_model: SandwichTransformer, make_clip: Make) -> None:
    rollout = BackwardSimulation(sampler=RenoiseSolver(num_steps=2))

    def rolled(seed: int) -> tuple[PackedBatch, torch.Tensor]:
        batch = pack([make_clip("a", num_given_frames=1, seed=seed)], patch=PATCH)
        with torch.no_grad():
            return batch, rollout(tiny_model, batch, ClipNoise(batch, seed=0, purpose="p"), exit_at=Exit(1))[0]

    batch, video = rolled(0)
    assert torch.equal(video[batch.video_is_given], batch.video[batch.video_is_given])
    first, other = (pack([make_clip("a", seed=seed)], patch=PATCH) for seed in (0, 1))
    other = replace(other, text=first.text)
    with torch.no_grad():
        results = [
            rollout(tiny_model, b, ClipNoise(b, seed=0, purpose="p"), exit_at=Exit(1))[0] for b in (first, other)
        ]
    assert torch.equal(results[0], results[1])


@pytest.mark.parametrize("probabilities", [[0.5, 0.5], [0.5, 0.5, 0.5, -0.5], [0.3] * 4])
def test_impossible_probabilities(probabilities: list[float]) -> None:
    with pytest.raises(ValueError, match="want 4 exit probabilities"):
        BackwardSimulation(sampler=RenoiseSolver(num_steps=4), exit_probabilities=probabilities)


def test_shares_of_noised_data() -> None:
    sampler = RenoiseSolver(num_steps=4)
    for share in (0.0, 0.3, 1.0):
        rollout = BackwardSimulation(sampler=sampler, simulated_share=share)
        exits = [rollout.exit_at(seed=0, step=step) for step in range(1000)]
        assert sum(not one.from_data for one in exits) / 1000 == pytest.approx(share, abs=0.05)
        evaluations = {rollout.num_evaluations(one) for one in exits if one.from_data}
        assert evaluations <= {1}
    with pytest.raises(ValueError, match=r"simulated_share 1\.5"):
        BackwardSimulation(sampler=sampler, simulated_share=1.5)


def test_exits_do_not_depend_on_how_they_are_made() -> None:
    """Rows of a table that differ in the share of simulation alone have the same exits."""
    sampler = RenoiseSolver(num_steps=8)
    one, other = (BackwardSimulation(sampler=sampler, simulated_share=share) for share in (0.0, 1.0))
    steps = range(50)
    assert [one.exit_at(seed=3, step=s).step for s in steps] == [other.exit_at(seed=3, step=s).step for s in steps]


def test_from_data_the_student_sees_the_data_noised_to_the_exit(make_clip: Make) -> None:
    """A student that predicts no velocity returns what it saw: (1 - t) data + t noise, given tokens as they are."""
    batch = pack([make_clip("a", num_given_frames=1), make_clip("b", audio_is_given=True)], patch=PATCH)
    rollout = BackwardSimulation(sampler=RenoiseSolver(num_steps=4))
    calls: list[PackedBatch] = []

    def student(packed: PackedBatch) -> Prediction:
        calls.append(packed)
        return Prediction(video=torch.zeros_like(packed.video), audio=torch.zeros_like(packed.audio))

    made = rollout(student, batch, ClipNoise(batch, seed=0, purpose="p"), exit_at=Exit(2, from_data=True))
    noise, t = ClipNoise(batch, seed=0, purpose="p").gaussian(), rollout.sampler.noise_levels[2]
    assert len(calls) == 1
    expected = torch.where(batch.video_is_given[:, None], batch.video, (1 - t) * batch.video + t * noise[0])
    torch.testing.assert_close(made[0], expected)
    assert torch.equal(made[1][batch.audio_is_given], batch.audio[batch.audio_is_given])


def test_marginals_of_a_perfect_student(toys: Any) -> None:
    """For data of variance s^2 the posterior mean at level t has the velocity x (t - (1 - t) s^2) / ((1 - t)^2 s^2 +
    t^2). Walking with it, every state has variance (1 - t)^2 v + t^2, v that of the prediction before it.
    """
    s2, sampler = 0.5, RenoiseSolver(num_steps=4)
    batch = toys.batch(40_000)
    seen: list[torch.Tensor] = []
    levels = iter([])

    def student(packed: PackedBatch) -> Prediction:
        t = next(levels)
        seen.append(packed.video)
        slope = (t - (1 - t) * s2) / ((1 - t) ** 2 * s2 + t**2)
        return Prediction(video=slope * packed.video, audio=slope * packed.audio)

    for step in range(4):
        seen.clear()
        levels = iter(sampler.noise_levels)
        made = BackwardSimulation(sampler=sampler)(
            student, batch, ClipNoise(batch, seed=step, purpose="p"), exit_at=Exit(step)
        )
        variance = 0.0
        for t, state in zip(sampler.noise_levels[: step + 1], seen, strict=True):
            before = (1 - t) ** 2 * variance + t**2 if len(seen) > 1 and state is not seen[0] else 1.0
            assert float(state.var()) == pytest.approx(before, rel=0.03)
            variance = before * ((1 - t) * s2 / ((1 - t) ** 2 * s2 + t**2)) ** 2
        assert float(made[0].var()) == pytest.approx(variance, rel=0.03)


def test_noise_is_that_of_the_clip_and_of_nothing_else(make_clip: Make, tiny_model: SandwichTransformer) -> None:
    """Two processes that share a clip draw the same, and those with other clips others, as each has its own stream."""
    alone, both = (pack(clips, patch=PATCH) for clips in ([make_clip("a")], [make_clip("b"), make_clip("a")]))
    draws = [ClipNoise(batch, seed=0, purpose="rollout", step=5).gaussian()[0] for batch in (alone, both)]
    assert torch.equal(draws[1][both.video_clip == 1], draws[0])
    assert not torch.equal(draws[1][both.video_clip == 0], draws[0])
