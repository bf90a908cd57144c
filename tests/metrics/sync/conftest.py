"""Drawn heads that speak, at any frame rate, with sound that is early or late by any time; and an expert for them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from hh_train.metrics.faces.crops import mouth_crops
from hh_train.metrics.measurer import Sample
from hh_train.metrics.sync.expert import SyncExpert
from hh_train.metrics.sync.expert_training import MouthClip, train
from hh_train.types import Clip

Speaker = Callable[..., Clip]


def syllables(seed: int, seconds: float) -> Callable[[np.ndarray], np.ndarray]:
    """Loudness over time in seconds, 0 to 1: syllables of random place, length and strength, silence at both ends."""
    generator = np.random.default_rng(seed)
    starts, lengths, strengths = [], [], []
    at = 0.12
    while at < seconds - 0.35:
        lengths.append(generator.uniform(0.1, 0.24))
        starts.append(at)
        strengths.append(generator.uniform(0.4, 1.0))
        at += lengths[-1] + generator.uniform(0.0, 0.16)

    def loudness(times: np.ndarray) -> np.ndarray:
        level = np.zeros_like(times)
        for start, length, strength in zip(starts, lengths, strengths, strict=True):
            phase = (times - start) / length
            level = np.maximum(level, np.where((phase > 0) & (phase < 1), strength * np.sin(np.pi * phase), 0))
        return level

    return loudness


def draw(opening: np.ndarray, size: int, tint: float) -> torch.Tensor:
    """Frames [F, size, size, 3] of a head whose mouth opens so far."""
    y, x = np.mgrid[0:size, 0:size] / size
    frames = np.empty((len(opening), size, size, 3), np.uint8)
    for i, height in enumerate(0.012 + 0.07 * opening):
        picture = np.full((size, size, 3), (90, 140, 110), np.float64)
        picture[((x - 0.5) / 0.3) ** 2 + ((y - 0.5) / 0.4) ** 2 < 1] = np.array((215, 170, 140)) * tint
        for side in (-0.12, 0.12):
            picture[((x - 0.5 - side) / 0.04) ** 2 + ((y - 0.42) / 0.03) ** 2 < 1] = (30, 30, 40)
        picture[((x - 0.5) / 0.12) ** 2 + ((y - 0.7) / height) ** 2 < 1] = (110, 25, 35)
        frames[i] = picture
    return torch.from_numpy(frames)


@pytest.fixture(scope="session")
def speaker() -> Speaker:
    """Makes clips whose sound comes `lead_seconds` early; `mouth` is "moving" or "still"."""

    def make(
        seed: int = 0,
        *,
        num_frames: int = 49,
        frames_per_second: float = 25.0,
        lead_seconds: float = 0.0,
        mouth: str = "moving",
        said_by: int | None = None,
        size: int = 64,
    ) -> Clip:
        seconds = num_frames / frames_per_second
        centers = (np.arange(num_frames) + 0.5) / frames_per_second
        opening = syllables(seed, seconds)(centers) if mouth == "moving" else np.zeros(num_frames)
        times = np.arange(round(seconds * 16_000)) / 16_000
        level = syllables(seed if said_by is None else said_by, seconds)(times + lead_seconds)
        carrier = np.random.default_rng(seed + 1).standard_normal(len(times)) * 0.15
        return Clip(
            frames=draw(opening, size, tint=0.8 + 0.2 * (seed % 3) / 2),
            frames_per_second=frames_per_second,
            waveform=torch.from_numpy(((level + 1e-3) * carrier).clip(-1, 1).astype(np.float32)),
            samples_per_second=16_000,
        )

    return make


def mouth_clip(clip: Clip, key: str, side: int = 16) -> MouthClip:
    mouth = Sample(key=key, clip=clip, transcript=None, language=None).mouth
    assert clip.waveform is not None
    return MouthClip(key=key, crops=mouth_crops(clip.frames, mouth.boxes, size=side), waveform=clip.waveform)


@pytest.fixture(scope="session")
def held_out(speaker: Speaker) -> list[MouthClip]:
    """Mouths that the expert was not trained on."""
    return [mouth_clip(speaker(seed), str(seed)) for seed in range(100, 108)]


@pytest.fixture(scope="session")
def expert(speaker: Speaker) -> SyncExpert:
    """An expert for the drawn heads, trained in seconds."""
    clips = [mouth_clip(speaker(seed, num_frames=33), str(seed)) for seed in range(40)]
    return train(clips, max_steps=60, batch_size=12, width=24)
