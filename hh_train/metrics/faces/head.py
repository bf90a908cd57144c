"""The head of a clip, cut out so that it stands still, and the mouth in it.

The window has one size for the whole clip and moves by whole pixels: a mouth of four pixels' height would not survive
resampling. Heads smaller than 48 pixels are enlarged, so that none is lost for being small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from hh_train.metrics.faces.mouth import MouthTrack, track_mouth
from hh_train.metrics.faces.track import FaceTrack

_MARGIN = 0.22
_LOWERED = 0.06
_SMALLEST_HEAD = 48
_UPPER_LIP, _LOWER_LIP, _LEFT_CORNER, _RIGHT_CORNER = 13, 14, 78, 308
_LIPS_BOX = 1.7
"""Side of a landmark mouth's box over the median distance of its corners."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """A head cut out of every frame."""

    frames: UInt8[Tensor, "F S S 3"]
    corners: Float[Tensor, "F 2"]
    """x, y of the window's upper left corner in each frame, in pixels of the frame."""
    scale: float
    """Pixels of the head's picture over pixels of the frame."""


def cut_head(frames: UInt8[Tensor, "F H W 3"], face: FaceTrack) -> Head:
    """The square about the face, about half as wide again; where it leaves the frame, the frame's edge is repeated."""
    _, height, width, _ = frames.shape
    boxes = face.boxes.double().numpy() * np.array([width, height, width, height])
    size = float(np.median(boxes[:, 2] - boxes[:, 0]))
    side = max(round(size * (1 + 2 * _MARGIN)), 8)
    centers = np.stack(((boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2 + _LOWERED * size), axis=1)
    corners = np.rint(centers - side / 2).astype(np.int64)
    enlarged = int(np.ceil(_SMALLEST_HEAD / side))
    windows = [_window(frame, corner, side, enlarged) for frame, corner in zip(frames.numpy(), corners, strict=True)]
    return Head(
        frames=torch.from_numpy(np.stack(windows)), corners=torch.from_numpy(corners).float(), scale=float(enlarged)
    )


def _window(frame: NDArray[np.uint8], corner: NDArray[np.int64], side: int, enlarged: int) -> NDArray[np.uint8]:
    height, width, _ = frame.shape
    columns = np.clip(np.arange(corner[0], corner[0] + side), 0, width - 1)
    rows = np.clip(np.arange(corner[1], corner[1] + side), 0, height - 1)
    window: NDArray[Any] = frame[rows[:, None], columns[None]]
    if enlarged > 1:
        window = cv2.resize(window, None, fx=enlarged, fy=enlarged, interpolation=cv2.INTER_CUBIC)
    return np.asarray(window, np.uint8)


def mouth_of_face(frames: UInt8[Tensor, "F H W 3"], face: FaceTrack) -> MouthTrack:
    """The face's mouth: from its landmarks where it has any, otherwise from the pixels of the head's lower half.

    The opening from landmarks is the distance of the inner lips over that of the mouth's corners; the one from pixels
    is `track_mouth`'s.

    Raises:
        ValueError: with fewer than two frames.
    """
    if face.landmarks is not None:
        return _from_landmarks(face.landmarks, frames.shape[1], frames.shape[2])
    head = cut_head(frames.cpu(), face)
    found = track_mouth(head.frames)
    _, height, width, _ = frames.shape
    pixels = found.boxes * head.frames.shape[1] / head.scale + head.corners.repeat(1, 2)
    return MouthTrack(opening=found.opening, boxes=pixels / torch.tensor([width, height, width, height]))


def _from_landmarks(landmarks: Float[Tensor, "F points 2"], height: int, width: int) -> MouthTrack:
    points = landmarks * torch.tensor([width, height])
    wide = (points[:, _RIGHT_CORNER] - points[:, _LEFT_CORNER]).norm(dim=-1).clamp(min=1e-6)
    opening = (points[:, _LOWER_LIP] - points[:, _UPPER_LIP]).norm(dim=-1) / wide
    center = (points[:, _LEFT_CORNER] + points[:, _RIGHT_CORNER] + points[:, _UPPER_LIP] + points[:, _LOWER_LIP]) / 4
    half = _LIPS_BOX * wide.median() / 2
    boxes = torch.cat((center - half, center + half), dim=1) / torch.tensor([width, height, width, height])
    return MouthTrack(opening=opening, boxes=boxes)
