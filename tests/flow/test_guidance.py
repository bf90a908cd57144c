"""Guidance by Ho and Salimans' convention."""

from __future__ import annotations

import torch

from hh_train.flow.guidance import Guidance, guided


def test_convention() -> None:
    conditional, unconditional = torch.tensor([3.0]), torch.tensor([1.0])
    assert guided(conditional, unconditional, 1.0) == 3.0
    assert guided(conditional, unconditional, 0.0) == 1.0
    assert guided(conditional, unconditional, 4.0) == 9.0


def test_none_is_seen() -> None:
    assert Guidance().is_none
    assert not Guidance(audio=2.0).is_none
    assert not Guidance(video_low_noise=2.0).is_none
    assert Guidance(video_low_noise=1.0).is_none


def test_released_schedule() -> None:
    guidance = Guidance(video=5.0, audio=5.0, video_low_noise=2.0)
    assert guidance.video_scale(torch.tensor([0.9, 0.51, 0.5, 0.1])).tolist() == [5, 5, 2, 2]
