"""Mouth crops are centered, of one size, and still while the head moves."""

from __future__ import annotations

from collections.abc import Callable

import torch

from hh_train.metrics.faces.crops import CROP_SIZE, mouth_crops


def box_about(x: float, y: float, side: float, width: int, height: int) -> list[float]:
    return [(x - side / 2) / width, (y - side / 2) / height, (x + side / 2) / width, (y + side / 2) / height]


def test_a_crop_shows_its_box_and_a_fifth_more() -> None:
    frames = torch.zeros(3, 100, 200, 3, dtype=torch.uint8)
    frames[:, 30:70, 80:120] = 200
    crops = mouth_crops(frames, torch.tensor([box_about(100, 50, 40, 200, 100)] * 3))
    assert crops.shape == (3, CROP_SIZE, CROP_SIZE) and crops.dtype == torch.uint8
    bright = crops[1] > 100
    assert bright[4:44, 4:44].all() and not bright[:3].any() and not bright[:, -3:].any()


def test_crops_of_a_moving_head_are_those_of_a_still_one(placed_head: Callable[..., torch.Tensor]) -> None:
    def crops(step: int) -> torch.Tensor:
        frames = placed_head(head=64, height=96, width=256, corner=(10, 10), step=(step, 0))
        boxes = torch.tensor([box_about(10 + step * i + 32, 10 + 45, 20, 256, 96) for i in range(25)])
        return mouth_crops(frames, boxes)[4:-4].float()

    still, moving = crops(0), crops(4)
    assert still.diff(dim=0).abs().mean() > 3  # it speaks
    assert (still - moving).abs().mean() < 0.5


def test_far_away_and_outside() -> None:
    frames = torch.full((2, 400, 400, 3), 50, dtype=torch.uint8)
    frames[:, ::2] = 150
    crops = mouth_crops(frames, torch.tensor([box_about(200, 380, 300, 400, 400)] * 2), size=16)
    assert crops.shape == (2, 16, 16)
    assert (crops[:, :8].float() - 100).abs().max() < 12  # fine lines are averaged, not sampled
