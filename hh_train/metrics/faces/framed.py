"""Faces of footage whose framing is known: nothing is looked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import UInt8
from torch import Tensor

from hh_train.metrics.faces.track import FaceTrack


class FramedFaces:
    """Takes one place for the face of every clip, as close-ups of one framing allow.

    It claims a face in every frame, so that it says nothing about whether a generated clip shows one, and the coverage
    is always 1. It serves where a mouth is to be measured in heads that no detector knows.

    Args:
        box: x0, y0, x1, y1 of the face from brow to chin, as fractions of the frame.

    Raises:
        ValueError: for a box outside the frame or without area.
    """

    def __init__(self, *, box: Sequence[float] = (0.16, 0.2, 0.84, 0.88)) -> None:
        if len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
            raise ValueError(f"got the box {list(box)}; wanted x0 < x1 and y0 < y1, as fractions of the frame")
        self.box = tuple(float(side) for side in box)

    def fingerprint(self) -> str:
        return f"framed {self.box}"

    def find(self, frames: UInt8[Tensor, "F H W 3"]) -> FaceTrack | None:
        """The same box in all frames."""
        count = frames.shape[0]
        return FaceTrack(boxes=torch.tensor(self.box).repeat(count, 1), is_seen=torch.ones(count, dtype=torch.bool))
