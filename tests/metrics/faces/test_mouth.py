"""The mouth is found, and its opening follows the true one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from hh_train.metrics.faces.mouth import track_mouth
from hh_train.types import Clip


@pytest.mark.parametrize("size", [64, 128])
def test_the_opening_follows_the_true_one(talking_clip: Callable[..., Clip], size: int) -> None:
    for seed in range(3):
        clip = talking_clip(seed=seed, size=size)
        track = track_mouth(clip.frames)
        assert clip.waveform is not None
        loud = clip.waveform.view(-1, 640).square().mean(dim=1).sqrt()
        assert np.corrcoef(track.opening.numpy(), loud.numpy())[0, 1] > 0.8
        centers = (track.boxes[:, :2] + track.boxes[:, 2:]) / 2
        assert (centers - torch.tensor([0.5, 0.7])).abs().max() < 0.08


def test_a_still_picture_has_a_still_mouth(talking_clip: Callable[..., Clip]) -> None:
    frames = talking_clip().frames[:1].expand(20, -1, -1, -1).contiguous()
    assert float(track_mouth(frames).opening.std()) < 1e-6


def test_too_few_frames_or_pixels() -> None:
    for shape in ((1, 64, 64, 3), (5, 16, 64, 3)):
        with pytest.raises(ValueError, match="needs 2 frames of at least 32x32"):
            track_mouth(torch.zeros(shape, dtype=torch.uint8))
