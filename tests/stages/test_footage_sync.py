"""The offset of footage with a real face in it, whose mouth is drawn over and moves with the loudness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import matplotlib.cbook
import numpy as np
import pytest
import torch
from torch import Tensor

from hh_train.data.media.files import MediaReader
from hh_train.data.selection.filters import OutOfSync
from hh_train.metrics.faces.framed import FramedFaces
from hh_train.stages.footage_sync import LipOffset
from hh_train.types import Clip

NUM_FRAMES = 201
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


@pytest.mark.parametrize("delay", [-6, 0, 6])
def test_the_offset_is_found(portrait: np.ndarray, delay: int) -> None:
    found = LipOffset()(talking(portrait, delay_frames=delay))
    assert found.offset_frames == pytest.approx(-delay, abs=1.0)


def test_sound_of_another_clip_has_no_offset(portrait: np.ndarray) -> None:
    clip = talking(portrait)
    assert clip.waveform is not None
    found = [LipOffset()(replace(clip, waveform=sound_of(seed))) for seed in range(10, 16)]
    undecided = [one for one in found if one.offset_frames is None]
    assert len(undecided) >= 5  # two of a hundred are taken for a match by chance
    assert {one.reason for one in undecided} == {"lips and sound match nowhere beyond chance"}


def test_without_a_face_there_is_no_offset(portrait: np.ndarray) -> None:
    found = LipOffset()(talking(portrait, face=False))
    assert found.offset_frames is None
    assert found.reason == "no face in half of the frames"


def test_without_sound_there_is_no_offset(portrait: np.ndarray) -> None:
    assert LipOffset()(replace(talking(portrait), waveform=None)).reason == "there is no sound"


def test_another_finder_of_faces_is_another_setting() -> None:
    framed = FramedFaces(box=[0.16, 0.2, 0.84, 0.88])
    assert LipOffset(faces=framed).settings() == {"faces": framed.fingerprint()}
    assert LipOffset().settings() != LipOffset(faces=framed).settings()


@pytest.mark.parametrize(
    ("name", "delay"), [("obama_speech", 0), ("jwpIntro", 0), ("testMovie", 0), ("obama_speech", 9)]
)
def test_the_filter_decides_on_real_speakers(real_clip: Callable[[str], Path], name: str, delay: int) -> None:
    clip = MediaReader().read(real_clip(name), max_frames=217)
    assert clip.waveform is not None
    verdict = OutOfSync(measure=LipOffset()).judge(replace(clip, waveform=torch.roll(clip.waveform, delay * 640)))
    assert verdict.remark is None
    assert (verdict.reason is not None) == bool(delay)
    assert verdict.reason is None or "frames late" in verdict.reason
