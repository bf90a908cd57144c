"""Solvers on a distribution whose velocity is known: independent normals of mean 2 and spread 0.5."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from hh_train.flow.solvers import RenoiseSolver, State, UniPCSolver

MEAN, SPREAD, COUNT = 2.0, 0.5, 20_000


def exact_velocity(x: State, t: float) -> State:
    """E[noise - clean | x_t = x] of the linear path."""

    def one(value: Tensor) -> Tensor:
        variance = (1 - t) ** 2 * SPREAD**2 + t**2
        off = value - (1 - t) * MEAN
        return t * off / variance - (MEAN + (1 - t) * SPREAD**2 * off / variance)

    return one(x[0]), one(x[1])


def drawing(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return lambda: (torch.randn(COUNT, 1, generator=generator), torch.randn(COUNT, 1, generator=generator))


def identity(x: State) -> State:
    return x


@pytest.mark.parametrize(("steps", "tolerance"), [(32, 0.04), (128, 0.01)])
def test_unipc_reaches_the_distribution(steps: int, tolerance: float) -> None:
    for values in UniPCSolver(num_steps=steps)(exact_velocity, drawing(), keep=identity):
        assert values.mean() == pytest.approx(MEAN, abs=0.02)
        assert values.std() == pytest.approx(SPREAD, abs=tolerance)


def test_unipc_with_few_steps_loses_spread() -> None:
    """What distillation is for."""
    video, _ = UniPCSolver(num_steps=8)(exact_velocity, drawing(), keep=identity)
    assert video.std() < 0.7 * SPREAD


def test_renoising_a_perfect_student_reaches_the_distribution() -> None:
    """A student whose clean prediction has the data's distribution at any level: fresh noise keeps it so."""
    targets = drawing(seed=1)

    def perfect(x: State, t: float) -> State:
        video, audio = (MEAN + SPREAD * noise for noise in targets())
        return (x[0] - video) / t, (x[1] - audio) / t

    video, audio = RenoiseSolver(num_steps=8)(perfect, drawing(), keep=identity)
    assert video.mean() == pytest.approx(MEAN, abs=0.02) and audio.std() == pytest.approx(SPREAD, abs=0.02)


def test_renoising_marginals() -> None:
    """What the model sees at level t is (1-t) clean + t noise with noise of unit spread, fresh at each step."""
    seen: list[tuple[float, Tensor]] = []

    def zero_clean(x: State, t: float) -> State:
        seen.append((t, x[0]))
        return x[0] / t, x[1] / t  # the clean prediction is 0

    RenoiseSolver(num_steps=8)(zero_clean, drawing(), keep=identity)
    assert len(seen) == 8
    for (t, x), (_, later) in pairwise(seen):
        assert x.std() / (t if t < 0.9998 else 1) == pytest.approx(1, abs=0.03)
        assert abs(torch.corrcoef(torch.stack([x[:, 0], later[:, 0]]))[0, 1]) < 0.03


def test_walking_part_of_the_way_stops_at_the_clean_prediction() -> None:
    calls = []

    def velocity(x: State, t: float) -> State:
        calls.append(t)
        return exact_velocity(x, t)

    solver = RenoiseSolver(num_steps=8)
    solver(velocity, drawing(), keep=identity, num_steps=3)
    assert calls == list(solver.noise_levels[:3])


@pytest.mark.parametrize("solver", [RenoiseSolver(num_steps=4), UniPCSolver(num_steps=4)])
def test_given_values_are_kept_before_every_evaluation_and_at_the_end(solver: RenoiseSolver | UniPCSolver) -> None:
    def keep(x: State) -> State:
        video = x[0].clone()
        video[0] = 7.0
        return video, x[1]

    def velocity(x: State, t: float) -> State:
        assert x[0][0] == 7.0
        return exact_velocity(x, t)

    steps = []
    video, _ = solver(velocity, drawing(), keep=keep, on_step=lambda: steps.append(1))
    assert video[0] == 7.0 and len(steps) == 4


@pytest.mark.parametrize("levels", [(0.5, 0.7, 0.0), (0.9, 0.5, 0.1), (1.2, 0.5, 0.0), (0.9, 0.0)])
def test_impossible_lists(levels: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="noise levels must decrease"):
        RenoiseSolver(num_steps=2, levels=levels)
