"""The teacher's walk and what the student learns from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch

from hh_train.data.packing import pack
from hh_train.flow.clip_noise import ClipNoise
from hh_train.flow.solvers import RenoiseSolver
from hh_train.training.dmd2.regression import OdeRegression
from hh_train.training.dmd2.rollout import Exit
from hh_train.training.dmd2.turn import Turn
from hh_train.types import LatentClip, Modality, PackedBatch, Prediction

STD = 0.5
SAMPLER = RenoiseSolver(num_steps=4, levels=[1.0, 0.8, 0.5, 0.2, 0.0])


def spread(t: float) -> float:
    """Standard deviation at level t of data with deviation STD: along the ODE states keep their place in it."""
    return ((1 - t) ** 2 * STD**2 + t**2) ** 0.5


class Gaussian:
    """The exact velocity x d/dt log spread(t) at the levels of a walk, in their order."""

    def __init__(self, steps_between: int) -> None:
        levels = SAMPLER.noise_levels
        self.levels: Iterator[float] = iter(
            [
                high + (low - high) * part / steps_between
                for high, low in pairwise(levels)
                for part in range(steps_between)
            ]
        )

    def __call__(self, batch: PackedBatch) -> Prediction:
        t = next(self.levels)
        slope = (t - (1 - t) * STD**2) / spread(t) ** 2
        return Prediction(video=slope * batch.video, audio=slope * batch.audio)


@pytest.fixture
def turn(toys: Any) -> Callable[..., Turn]:
    def make(teacher: Any, *, student: Any = None, batch: PackedBatch | None = None, exit_step: int = 1) -> Turn:
        batch = toys.batch(50) if batch is None else batch
        return Turn(
            networks=toys.trio(student=student or teacher, critic=teacher, teacher=teacher),
            null_text=torch.zeros(1, 1),
            batch=batch,
            make_sample=lambda: pytest.fail("no sample is looked at"),
            trains_student=True,
            sampler=SAMPLER,
            exit_at=Exit(exit_step),
            noise=lambda purpose: ClipNoise(batch, seed=0, purpose=purpose),
            weights={Modality.VIDEO: 1.0, Modality.AUDIO: 2.0},
        )

    return make


def test_the_walk_is_the_ode_in_the_limit_of_small_steps(turn: Callable[..., Turn]) -> None:
    errors = []
    for steps_between in (8, 16):
        at = turn(Gaussian(steps_between))
        states = OdeRegression(steps_between=steps_between).walk(at)
        assert len(states) == 5
        noise = at.noise("regression").gaussian()
        for m in range(2):
            for t, state in zip(SAMPLER.noise_levels, states, strict=True):
                torch.testing.assert_close(state[m], spread(t) * noise[m], atol=0.1, rtol=0)
        errors.append(float((states[-1][0] - STD * noise[0]).abs().mean()))
    assert errors[1] == pytest.approx(errors[0] / 2, rel=0.2)  # of first order


def test_the_loss_is_that_of_predicting_the_end(turn: Callable[..., Turn]) -> None:
    """A student whose clean prediction at level t is x itself misses by (spread(t) - STD) times the noise."""

    def student(batch: PackedBatch) -> Prediction:
        return Prediction(video=torch.zeros_like(batch.video), audio=torch.zeros_like(batch.audio))

    at = turn(Gaussian(64), student=student, exit_step=1)
    objective = OdeRegression(steps_between=64, levels_per_walk=2, weight=3.0)(at)
    noise = at.noise("regression").gaussian()
    expected = [sum((spread(t) - STD) ** 2 for t in (0.8, 0.2)) / 2 * float(noise[m].square().mean()) for m in range(2)]
    for name, value in zip(("video", "audio"), expected, strict=True):
        assert float(objective.losses[f"regression_{name}"].mean()) == pytest.approx(value, rel=0.05)
    assert float(objective.value) == pytest.approx(3 * (expected[0] + 2 * expected[1]), rel=0.05)


def test_given_tokens_stay_in_the_walk_and_carry_no_loss(turn: Callable[..., Turn]) -> None:
    video = torch.ones(2, 3, 1, 1)
    clip = LatentClip(key="a", video=video, audio=torch.zeros(2, 2), text=torch.zeros(1, 1), num_given_frames=1)
    batch = pack([clip], patch=(1, 1, 1))
    for state in OdeRegression(steps_between=2).walk(turn(Gaussian(2), batch=batch)):
        assert torch.equal(state[0][0], torch.ones(2))
    losses = OdeRegression(steps_between=2, levels_per_walk=1)(
        turn(Gaussian(2), student=Gaussian(1), batch=batch)
    ).losses
    assert losses["regression_video"].count.tolist() == [2]


def test_numbers_below_one() -> None:
    with pytest.raises(ValueError, match="want 1 or more"):
        OdeRegression(steps_between=0)
