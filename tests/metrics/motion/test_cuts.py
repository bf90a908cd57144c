"""Cuts that are made, and shots that are asked for."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from hh_train.data.media.files import MediaReader, write_clip
from hh_train.metrics.motion.cuts import count_cuts, prompt_shots
from hh_train.types import Clip


def shot(num_frames: int, seed: int, *, speed: float = 0.5) -> Tensor:
    """A camera that glides over a picture of large spots."""
    noise = np.random.default_rng(seed).uniform(0, 255, (200, 400, 3)).astype(np.float32)
    spots = cv2.GaussianBlur(noise, (0, 0), 9)
    spots = (spots - spots.min()) / (spots.max() - spots.min()) * 255
    views = [cv2.getRectSubPix(spots, (96, 64), (60 + i * speed, 100)) for i in range(num_frames)]
    return torch.from_numpy(np.stack(views).astype(np.uint8))


@pytest.mark.parametrize(("lengths", "cuts"), [((49,), 0), ((20, 29), 1), ((10, 15, 24), 2)])
def test_cuts_of_a_real_file(tmp_path: Path, lengths: tuple[int, ...], cuts: int) -> None:
    frames = torch.cat([shot(n, seed) for seed, n in enumerate(lengths)])
    clip = Clip(frames=frames, frames_per_second=25.0, waveform=None, samples_per_second=16_000)
    write_clip(tmp_path / "a.mp4", clip)
    read = MediaReader().read(tmp_path / "a.mp4")
    assert count_cuts(read.frames, frames_per_second=25.0) == cuts


def test_moving_fast_is_no_cut() -> None:
    assert count_cuts(shot(40, 3, speed=5.0), frames_per_second=25.0) == 0


def test_large_frames_are_reduced_first() -> None:
    frames = torch.cat((shot(12, 4), shot(13, 5)))
    large = frames.repeat_interleave(5, dim=1).repeat_interleave(5, dim=2)
    assert count_cuts(large, frames_per_second=25.0) == 1


@pytest.mark.parametrize(
    ("description", "shots"),
    [
        ("A woman talks.", 1),
        ("Close-up of an old man, short hair, blue shirt, window.", 1),
        ("Close-up, then medium shot of a young woman, gray wall.", 2),
        ("Medium shot, then a close up, then a wide shot of a street.", 3),
        ("A close-up of her hands and, far away, a wide shot on a screen.", 1),
        ("Shot 1: a car. Shot 2: its driver, close-up. Shot 3: the road. In shot 2 he smiles.", 3),
        ("A man reads. Cut to his cat. The camera cuts back to the man.", 3),
        ("镜头一：一个女人。镜头二：一扇窗。", 2),
        ("She cuts the bread and looks up.", 1),
        ("", 1),
    ],
)
def test_shots_that_a_prompt_asks_for(description: str, shots: int) -> None:
    assert prompt_shots(description) == shots
