"""The offset of footage with a real face in it, whose mouth is drawn over and moves with the loudness."""

from __future__ import annotations

from dataclasses import replace

import cv2
import matplotlib.cbook
import numpy as np
import pytest
import torch
from torch import Tensor

from hh_train.stages.footage_sync import offset_frames
from hh_train.types import Clip

NUM_FRAMES = 101
MOUTH = (134, 131)
"""x, y in the portrait at half its size."""


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        data = np.frombuffer(file.read(), np.uint8)
    picture = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return np.asarray(cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))


def opening(seed: int = 1) -> Tensor:
    """0 to 1 per quarter of a frame: syllables of random heights."""
    heights = torch.rand(1, 1, NUM_FRAMES // 4, generator=torch.Generator().manual_seed(seed))
    track = torch.nn.functional.interpolate(heights, size=4 * NUM_FRAMES, mode="linear")[0, 0]
    return ((track - track.min()) / (track.max() - track.min())) ** 2


def sound_of(seed: int) -> Tensor:
    """Noise as loud as the mouth of `opening(seed)` is open."""
    track = opening(seed)[None, None]
    loudness = torch.nn.functional.interpolate(track, size=NUM_FRAMES * 640, mode="linear")[0, 0]
    noise = torch.randn(NUM_FRAMES * 640, generator=torch.Generator().manual_seed(2))
    return 0.3 * 10 ** (2 * loudness - 2) * noise


def talking(portrait: np.ndarray, *, delay_frames: int = 0, face: bool = True) -> Clip:
    track = opening()
    pictures = []
    for index in range(NUM_FRAMES):
        picture = portrait.copy() if face else np.full_like(portrait, 128)
        height = 2 + round(9 * float(track[4 * index + 2]))
        cv2.ellipse(picture, MOUTH, (12, height), 0, 0, 360, (40, 10, 15), -1)
        pictures.append(picture)
    shifted = torch.roll(sound_of(1), delay_frames * 640)
    return Clip(
        frames=torch.from_numpy(np.stack(pictures)),
        frames_per_second=25.0,
        waveform=shifted,
        samples_per_second=16_000,
    )


@pytest.mark.parametrize("delay", [-4, 0, 4])
def test_the_offset_is_found(portrait: np.ndarray, delay: int) -> None:
    found = offset_frames(talking(portrait, delay_frames=delay))
    assert found == pytest.approx(-delay, abs=1.0)


def test_sound_of_another_clip_has_no_offset(portrait: np.ndarray) -> None:
    clip = talking(portrait)
    assert clip.waveform is not None
    found = [offset_frames(replace(clip, waveform=sound_of(seed))) for seed in range(10, 16)]
    assert found == [None] * 6


def test_without_a_face_there_is_no_offset(portrait: np.ndarray) -> None:
    assert offset_frames(talking(portrait, face=False)) is None


def test_without_sound_there_is_no_offset(portrait: np.ndarray) -> None:
    assert offset_frames(replace(talking(portrait), waveform=None)) is None
