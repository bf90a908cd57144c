"""Drawn and real heads are found where they are, and nothing is found where none is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from hh_train.metrics.faces.cascade import CascadeFaces
from hh_train.types import Clip


@pytest.mark.parametrize("size", [64, 256])
def test_drawn_heads_are_found(talking_clip: Callable[..., Clip], size: int) -> None:
    for seed in range(2):
        track = CascadeFaces().find(talking_clip(num_frames=25, seed=seed, size=size).frames)
        assert track is not None and track.coverage == 1.0
        x0, y0, x1, y1 = track.boxes.mean(dim=0).tolist()
        assert x0 < 0.35 and x1 > 0.65 and y0 < 0.4 and 0.68 < y1 < 1.05  # both eyes and the mouth
        assert abs((x0 + x1) / 2 - 0.5) < 0.04


def test_a_small_face_is_enlarged_and_found(placed_head: Callable[..., torch.Tensor]) -> None:
    frames = placed_head(head=64, height=256, width=448, corner=(300, 40))
    track = CascadeFaces().find(frames)
    assert track is not None and track.coverage == 1.0
    x, y = ((track.boxes[:, :2] + track.boxes[:, 2:]) / 2).mean(dim=0).tolist()
    assert x == pytest.approx((300 + 32) / 448, abs=0.02) and y == pytest.approx((40 + 34) / 256, abs=0.04)


def test_the_box_follows_a_moving_head(placed_head: Callable[..., torch.Tensor]) -> None:
    track = CascadeFaces().find(placed_head(head=96, height=128, width=256, corner=(8, 16), step=(5, 0)))
    assert track is not None and track.coverage == 1.0
    moved = track.boxes[4:-4, 0] * 256
    assert torch.allclose(moved.diff(), torch.full((16,), 5.0), atol=1.2)


def test_the_part_without_a_face_is_not_covered(talking_clip: Callable[..., Clip]) -> None:
    frames = talking_clip(num_frames=81).frames.clone()
    frames[30:] = 90
    track = CascadeFaces().find(frames)
    assert track is not None and track.coverage == pytest.approx(33 / 81, abs=0.05)
    assert track.is_seen[:28].all() and not track.is_seen[38:].any()


def test_nothing_is_found_in_noise_stripes_and_a_plain_wall() -> None:
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (3, 64, 64, 3))
    patches = random.integers(0, 256, (3, 8, 8, 3)).repeat(8, axis=1).repeat(8, axis=2)
    stripes = np.broadcast_to((np.arange(64) // 4 % 2 * 200)[None, None, :, None], (3, 64, 64, 3))
    for frames in (noise, patches, stripes, np.full((3, 64, 64, 3), 90)):
        assert CascadeFaces().find(torch.from_numpy(frames.astype(np.uint8))) is None


@pytest.mark.parametrize(("name", "place"), [("obama_speech", (0.62, 0.21)), ("WolfgangLanger_Pexels", (0.7, 0.55))])
def test_real_faces(real_frames: Callable[[str], torch.Tensor], name: str, place: tuple[float, float]) -> None:
    track = CascadeFaces().find(real_frames(name))
    assert track is not None and track.coverage == 1.0
    centers = (track.boxes[:, :2] + track.boxes[:, 2:]) / 2
    assert (centers - torch.tensor(place)).abs().max() < 0.12


def test_a_lawn_has_no_face(real_frames: Callable[[str], torch.Tensor]) -> None:
    assert CascadeFaces().find(real_frames("park")[:13]) is None


def test_settings() -> None:
    with pytest.raises(ValueError, match="a side of at least 64"):
        CascadeFaces(side=32)
    assert CascadeFaces().fingerprint() != CascadeFaces(stride=2).fingerprint()
