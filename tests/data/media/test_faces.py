"""A face in a portrait, at the right place, and none in what is no face."""

from __future__ import annotations

import cv2
import matplotlib.cbook
import numpy as np
import pytest
import torch
from torch import Tensor

from hh_train.data.media.faces import find_face


@pytest.fixture(scope="module")
def portrait() -> Tensor:
    """[H, W, 3]: the picture that comes with Matplotlib; the face is at about (255, 180), 150 pixels wide."""
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        data = np.frombuffer(file.read(), np.uint8)
    return torch.from_numpy(cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB))


def clip_of(picture: Tensor, count: int = 10) -> Tensor:
    return picture[None].expand(count, -1, -1, -1).contiguous()


@pytest.mark.parametrize("scale", [1.0, 0.5, 2.0])
def test_a_face_is_found_where_it_is(portrait: Tensor, scale: float) -> None:
    scaled = torch.from_numpy(cv2.resize(portrait.numpy(), None, fx=scale, fy=scale))
    box = find_face(clip_of(scaled))
    assert box is not None
    left, top, right, bottom = (side / scale for side in box)
    assert left < 255 < right
    assert top < 190 < bottom
    assert 100 < right - left < 260


def test_a_face_must_be_there_most_of_the_time(portrait: Tensor) -> None:
    frames = clip_of(portrait)
    frames[4:] = 0
    assert find_face(frames) is None
    assert find_face(frames[:5]) is not None


def test_a_single_picture_is_looked_at(portrait: Tensor) -> None:
    assert find_face(portrait[None]) is not None


def test_noise_and_darkness_show_no_face() -> None:
    noise = (torch.rand(5, 96, 128, 3, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    assert find_face(noise) is None
    assert find_face(torch.zeros(5, 96, 128, 3, dtype=torch.uint8)) is None
