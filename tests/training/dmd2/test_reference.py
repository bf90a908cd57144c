"""The update rule as a whole against distributions in closed form: what it reaches, and how it fails without a part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hh_train.flow.guidance import Guidance
from hh_train.training.dmd2.critic import CriticFlow
from hh_train.training.dmd2.matching import DistributionMatching
from hh_train.types import PackedBatch, Prediction

MEAN, STD = torch.tensor([2.0, -1.0]), 0.5
NUM = 2000


def mmd(x: Tensor, y: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy under a Gaussian kernel of width 1."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-0.5 * torch.cdist(a, b).square())

    def off_diagonal(k: Tensor) -> Tensor:
        return (k.sum() - k.diag().sum()) / (len(k) * (len(k) - 1))

    return float(off_diagonal(kernel(x, x)) + off_diagonal(kernel(y, y)) - 2 * kernel(x, y).mean())


@pytest.fixture
def distill(toys: Any) -> Callable[..., Any]:
    """Distills a Gaussian with linear networks, for so many turns."""

    def run(
        num_turns: int, *, teacher: Callable[..., Any] | None = None, critic_learns: bool = True, **matching: Any
    ) -> Any:
        torch.manual_seed(0)
        target = toys.mixture(MEAN[None], STD)
        loop = toys.loop(
            networks=toys.trio(
                student=toys.network(), critic=toys.network(), teacher=target.model if teacher is None else teacher
            ),
            student_parts=[DistributionMatching(noise_levels=toys.one_level, **matching)],
            critic_parts=[CriticFlow(noise_levels=toys.one_level)],
            learning_rate=4e-2,
            ratio=3,
        )
        batch = toys.batch(256)
        if not critic_learns:  # it knows the student of the start, and no later one
            loop.student_parts, parts = [], loop.student_parts
            loop.ratio = 10**9
            loop.run(batch, 100)
            loop.ratio, loop.student_parts, loop.critic_parts = 3, parts, []
        loop.run(batch, num_turns)
        return loop

    return run


def test_the_student_reaches_the_moments_of_a_gaussian(distill: Callable[..., Any]) -> None:
    samples = distill(270).samples(NUM)
    torch.testing.assert_close(samples.mean(0), MEAN, atol=0.1, rtol=0)
    torch.testing.assert_close(samples.std(0), torch.full((2,), STD), atol=0.06, rtol=0)
    assert abs(samples.T.corrcoef()[0, 1]) < 0.15


def test_the_student_reaches_both_modes_of_a_mixture(toys: Any) -> None:
    """Two modes eight deviations apart: no linear map of the noise has their distribution."""
    torch.manual_seed(0)
    target = toys.mixture(torch.tensor([[2.0, 0.0], [-2.0, 0.0]]), 0.5)
    loop = toys.loop(
        networks=toys.trio(student=toys.network(hidden=64), critic=toys.network(hidden=64), teacher=target.model),
        student_parts=[DistributionMatching(noise_levels=toys.one_level)],
        critic_parts=[CriticFlow(noise_levels=toys.one_level)],
        learning_rate=8e-3,
        ratio=3,
    )
    truth = target.sample(NUM, torch.Generator().manual_seed(2))
    before = mmd(loop.samples(NUM), truth)
    loop.run(toys.batch(256), 450)
    samples = loop.samples(NUM)
    assert before > 0.2 and mmd(samples, truth) < 0.02
    assert float((samples[:, 0] > 0).float().mean()) == pytest.approx(0.5, abs=0.1)
    one_gaussian = truth.mean(0) + truth.std(0) * torch.randn(NUM, 2, generator=torch.Generator().manual_seed(3))
    assert mmd(samples, truth) < 0.5 * mmd(one_gaussian, truth)  # the moments alone would not do


def test_a_critic_that_does_not_follow_lets_the_student_run_past_the_target(distill: Callable[..., Any]) -> None:
    loop = distill(350, critic_learns=False)
    assert (loop.samples(NUM).mean(0).abs() > 1.5 * MEAN.abs()).all()


def test_the_wrong_sign_leads_away(distill: Callable[..., Any]) -> None:
    loop = distill(100, weight=-1.0)
    assert (loop.samples(NUM).mean(0) - MEAN).norm() > 1.2 * MEAN.norm()


@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_guidance_extrapolates_from_the_null_prompt_and_one_means_none(
    distill: Callable[..., Any], toys: Any, scale: float
) -> None:
    """With the prompt (text 1 here, beside 0) the mean is half of MEAN, without it a quarter: a scale of w leads to
    (1 + w) / 4 of it. Off by one, the other form cond + w (cond - uncond) would lead to (2 + w) / 4.
    """
    with_prompt, without = toys.mixture(0.5 * MEAN[None], STD), toys.mixture(0.25 * MEAN[None], STD)

    def teacher(batch: PackedBatch) -> Prediction:
        prompted = with_prompt.model(batch), without.model(batch)
        mask = batch.text[:, :1] > 0
        video, audio = batch.video_clip, batch.audio_clip
        return Prediction(
            video=torch.where(mask[video], prompted[0].video, prompted[1].video),
            audio=torch.where(mask[audio], prompted[0].audio, prompted[1].audio),
        )

    loop = distill(200, teacher=teacher, guidance=Guidance(video=scale, audio=scale))
    torch.testing.assert_close(loop.samples(NUM).mean(0), (1 + scale) / 4 * MEAN, atol=0.12, rtol=0)
