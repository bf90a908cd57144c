"""A head stands still in its window, and its mouth is where it is in the frame."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from hh_train.metrics.faces.cascade import CascadeFaces
from hh_train.metrics.faces.head import cut_head, mouth_of_face
from hh_train.metrics.faces.track import FaceTrack
from hh_train.types import Clip


def loudness(clip: Clip) -> np.ndarray:
    assert clip.waveform is not None
    return clip.waveform.view(-1, 640).square().mean(dim=1).sqrt().numpy()


def test_the_window_moves_with_the_face_and_repeats_the_edge() -> None:
    frames = torch.arange(40, dtype=torch.uint8)[None, None, :, None].repeat(5, 40, 1, 3)
    left = torch.arange(5) / 40
    boxes = torch.stack((left, torch.full((5,), 0.2), left + 0.4, torch.full((5,), 0.6)), dim=1)
    head = cut_head(frames, FaceTrack(boxes=boxes, is_seen=torch.ones(5, dtype=torch.bool)))
    assert head.scale == 3.0 and head.frames.shape == (5, 69, 69, 3)
    assert (head.corners[:, 0].diff() == 1).all()
    column = int(head.corners[2, 0])
    middle = head.frames[2, 30, 1::3, 0].tolist()
    assert middle[10] == column + 10
    assert head.frames[0, 0, 0, 0] == 0


@pytest.mark.parametrize("head", [64, 128])
def test_the_mouth_of_a_head_anywhere(
    placed_head: Callable[..., torch.Tensor], talking_clip: Callable[..., Clip], head: int
) -> None:
    frames = placed_head(head=head, height=224, width=320, corner=(30, 20), step=(2, 1), count=49)
    face = CascadeFaces().find(frames)
    assert face is not None
    mouth = mouth_of_face(frames, face)
    assert np.corrcoef(mouth.opening.numpy(), loudness(talking_clip(num_frames=49, size=head)))[0, 1] > 0.8
    centers = (mouth.boxes[:, :2] + mouth.boxes[:, 2:]) / 2 * torch.tensor([320, 224])
    moving = torch.arange(49)[:, None] * torch.tensor([2.0, 1.0])
    assert ((centers - moving - torch.tensor([30 + 0.5 * head, 20 + 0.7 * head])).abs() < 0.1 * head).all()


def test_the_opening_of_landmarks_is_relative_to_the_mouth() -> None:
    landmarks = torch.full((4, 468, 2), 0.5)
    landmarks[:, 78], landmarks[:, 308] = torch.tensor([0.4, 0.7]), torch.tensor([0.6, 0.7])
    gap = torch.tensor([0.0, 0.05, 0.1, 0.05])
    landmarks[:, 13, 0], landmarks[:, 14, 0] = 0.5, 0.5
    landmarks[:, 13, 1], landmarks[:, 14, 1] = 0.7 - gap / 2, 0.7 + gap / 2
    face = FaceTrack(boxes=torch.zeros(4, 4), is_seen=torch.ones(4, dtype=torch.bool), landmarks=landmarks)
    mouth = mouth_of_face(torch.zeros(4, 50, 100, 3, dtype=torch.uint8), face)
    assert torch.allclose(mouth.opening, gap * 50 / 20, atol=1e-5)
    assert torch.allclose(mouth.boxes[0], torch.tensor([0.33, 0.36, 0.67, 1.04]), atol=1e-4)
