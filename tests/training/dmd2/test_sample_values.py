"""Values of clips whose values are known."""

from __future__ import annotations

import math

import pytest
import torch

from hh_train.training.dmd2.sample_values import (
    brightness,
    loudness,
    mean_values,
    motion,
    saturation,
    seed_diversity,
    silence,
)
from hh_train.types import Clip


def make_clip(frames: torch.Tensor, waveform: torch.Tensor | None = None) -> Clip:
    return Clip(frames=frames, frames_per_second=25.0, waveform=waveform, samples_per_second=16_000)


def plain(*colors: tuple[int, int, int]) -> torch.Tensor:
    """A frame of each color."""
    return torch.tensor(colors, dtype=torch.uint8)[:, None, None, :].repeat(1, 4, 6, 1)


GRAY, RED = make_clip(plain((51, 51, 51))), make_clip(plain((255, 0, 0)))


def test_pictures() -> None:
    assert brightness(GRAY) == pytest.approx(0.2) and brightness(RED) == pytest.approx(1 / 3)
    assert saturation(GRAY) == 0 and saturation(RED) == 1
    assert motion(GRAY) == 0
    assert motion(make_clip(plain((0, 0, 0), (51, 51, 51), (0, 0, 0)))) == pytest.approx(0.2)
    assert seed_diversity(GRAY, GRAY) == 0 and seed_diversity(GRAY, make_clip(plain((102, 0, 51)))) == pytest.approx(
        (0.2 + 0.2 + 0) / 3
    )


def test_sound() -> None:
    tone = 0.1 * torch.sin(2 * math.pi * 200 * torch.arange(16_000) / 16_000)
    assert loudness(make_clip(plain((0, 0, 0)), tone)) == pytest.approx(20 * math.log10(0.1 / math.sqrt(2)), abs=0.01)
    half = torch.cat([tone[:8_000], torch.zeros(8_000)])
    assert silence(make_clip(plain((0, 0, 0)), half)) == pytest.approx(0.5)
    assert silence(make_clip(plain((0, 0, 0)), torch.zeros(16_000))) == 1
    assert silence(make_clip(plain((0, 0, 0)), tone[:100])) == 0  # shorter than a window


def test_means_leave_out_what_no_clip_has() -> None:
    tone = make_clip(plain((255, 0, 0)), torch.full((16_000,), 0.1))
    means = mean_values([GRAY, tone], [GRAY, RED])
    assert means["saturation"] == pytest.approx(0.5) and means["seed_diversity"] == 0
    assert means["loudness"] == pytest.approx(-20)  # of the one clip with sound
    assert {"loudness", "silence"}.isdisjoint(mean_values([GRAY], [RED]))
