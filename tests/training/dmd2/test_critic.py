"""What the critic learns."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from hh_train.flow.clip_noise import ClipNoise
from hh_train.flow.solvers import RenoiseSolver
from hh_train.training.dmd2.critic import CriticFlow
from hh_train.training.dmd2.rollout import Exit
from hh_train.training.dmd2.turn import Turn
from hh_train.types import Modality


def test_its_optimum_is_the_score_of_the_students_distribution(toys: Any) -> None:
    """Two modes, of which only a nonlinear score knows: by Tweedie's formula score = ((1 - t) clean - x) / t^2."""
    torch.manual_seed(0)
    students = toys.mixture(torch.tensor([[1.5, 0.0], [-1.5, 0.5]]), 0.4)
    critic, batch = toys.network(hidden=64), toys.batch(1024)
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(critic.parameters(), lr=5e-3)
    objective = CriticFlow(noise_levels=toys.one_level)
    for step in range(400):
        noise = partial(ClipNoise, batch, seed=0, step=step)
        turn = Turn(
            networks=toys.trio(student=critic, critic=critic, teacher=critic),
            null_text=torch.zeros(1, 1),
            batch=batch,
            make_sample=lambda: (students.sample(1024, generator), students.sample(1024, generator)),
            trains_student=True,
            sampler=RenoiseSolver(num_steps=1),
            exit_at=Exit(0),
            noise=lambda purpose, noise=noise: noise(purpose=purpose),
            weights={Modality.VIDEO: 1.0, Modality.AUDIO: 1.0},
        )
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * (1 - step / 400)
        optimizer.zero_grad()
        objective(turn).value.backward()
        optimizer.step()
    t = toys.level
    x = (1 - t) * students.sample(1024, generator) + t * torch.randn(1024, 2, generator=generator)
    with torch.no_grad():
        clean = x - t * critic(replace(batch, video=x)).video
    learned, exact = ((1 - t) * clean - x) / t**2, students.score(x)
    assert float((learned - exact).square().mean() / exact.square().mean()) < 0.01
    one_gaussian = toys.mixture(students.means.mean(0)[None], float(students.sample(4096, generator).std()))
    assert float((one_gaussian.score(x) - exact).square().mean() / exact.square().mean()) > 0.05
