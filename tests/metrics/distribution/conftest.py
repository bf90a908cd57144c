"""Talking heads as they come out of real files, and what harms them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import pytest
import torch

from hh_train.data.media.files import MediaReader, write_clip
from hh_train.types import Clip


@pytest.fixture(scope="session")
def real_files(talking_clip: Callable[..., Clip], tmp_path_factory: pytest.TempPathFactory) -> Sequence[Clip]:
    """Twelve clips of a second, encoded and decoded."""
    folder = tmp_path_factory.mktemp("files")
    clips = []
    for seed in range(12):
        write_clip(folder / f"{seed}.mp4", talking_clip(num_frames=25, seed=seed))
        clips.append(MediaReader().read(folder / f"{seed}.mp4"))
    return clips


def blurred(clip: Clip, sigma: float) -> Clip:
    frames = torch.stack([torch.from_numpy(cv2.GaussianBlur(frame, (0, 0), sigma)) for frame in clip.frames.numpy()])
    return replace(clip, frames=frames)


def noisy(clip: Clip, *, levels: float = 0.0, loudness: float = 0.0) -> Clip:
    """Noise of so many gray levels on the picture, and of so much amplitude on the sound."""
    generator = torch.Generator().manual_seed(0)
    assert clip.waveform is not None
    grain = levels * torch.randn(clip.frames.shape, generator=generator)
    hiss = loudness * torch.randn(clip.waveform.shape, generator=generator)
    return replace(
        clip,
        frames=(clip.frames.float() + grain).round().clamp(0, 255).to(torch.uint8),
        waveform=clip.waveform + hiss,
    )


@pytest.fixture(scope="session")
def harmed() -> dict[str, Callable[[Clip, float], Clip]]:
    return {
        "blur": blurred,
        "grain": lambda clip, levels: noisy(clip, levels=levels),
        "hiss": lambda clip, loudness: noisy(clip, loudness=loudness),
    }
