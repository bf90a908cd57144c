"""Drawn heads that speak: their mouths open as far as their sound is loud, which is early or late by any time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from hh_train.types import Clip

TalkingClip = Callable[..., Clip]
Speaker = Callable[..., Clip]


def speech_track(num_frames: int, seed: int) -> np.ndarray:
    """Syllables of random length and loudness, four values a frame, 0 to 1; silent at both ends."""
    generator = np.random.default_rng(seed)
    track = np.zeros(num_frames * 4)
    at = 8
    while at < len(track) - 20:
        length = int(generator.integers(8, 20))
        bump = np.sin(np.linspace(0, np.pi, length)) * generator.uniform(0.4, 1.0)
        track[at : at + length] = np.maximum(track[at : at + length], bump)
        at += length + int(generator.integers(0, 10))
    return track


@pytest.fixture(scope="session")
def talking_clip() -> TalkingClip:
    """Makes clips whose sound comes `sound_leads` frames early; `mouth` is "moving" or "still"."""

    def make(
        *, num_frames: int = 49, seed: int = 0, size: int = 64, sound_leads: int = 0, mouth: str = "moving"
    ) -> Clip:
        track = speech_track(num_frames, seed)
        opening = track[2::4] if mouth == "moving" else np.zeros(num_frames)
        y, x = np.mgrid[0:size, 0:size] / size
        frames = np.empty((num_frames, size, size, 3), np.uint8)
        for i in range(num_frames):
            sway = 0.01 * np.sin(i / 9)
            picture = np.full((size, size, 3), (90, 140, 110), np.float64)
            picture[((x - 0.5 - sway) / 0.3) ** 2 + ((y - 0.5) / 0.4) ** 2 < 1] = (215, 170, 140)
            for side in (-0.12, 0.12):
                picture[((x - 0.5 - sway - side) / 0.04) ** 2 + ((y - 0.42) / 0.03) ** 2 < 1] = (30, 30, 40)
            height = 0.012 + 0.07 * opening[i]
            picture[((x - 0.5 - sway) / 0.12) ** 2 + ((y - 0.7) / height) ** 2 < 1] = (110, 25, 35)
            frames[i] = picture
        samples = np.arange(num_frames * 640)
        loud = np.interp(samples / 160 + 4 * sound_leads, np.arange(len(track)), track, left=0, right=0)
        carrier = np.random.default_rng(seed + 1).standard_normal(len(samples)) * 0.15
        waveform = (loud * carrier + 1e-4 * carrier).clip(-1, 1)
        return Clip(
            frames=torch.from_numpy(frames),
            frames_per_second=25.0,
            waveform=torch.from_numpy(waveform.astype(np.float32)),
            samples_per_second=16_000,
        )

    return make


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
