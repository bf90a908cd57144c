"""How far a mouth is open in each frame, from the pixels of a frontal talking head, without landmark weights.

1. The mouth is where the picture changes most over time in the frame's lower half, preferably near its middle: the
   largest temporal deviation, averaged over a window of a mouth's size. Eyes blink above it and shoulders move below
   it.
2. A window about it follows the head by whole pixels (phase correlation of edges in the face's upper half); resampling
   would blur a mouth of four pixels' height.
3. Each row of the window has a usual color, its median over columns and frames: skin or beard. Lips, teeth and the dark
   inside all differ from it, so that the number of rows that differ in the mouth's middle columns grows with the
   opening, whatever is seen inside. Lower rows count more, since the lower lip is the one that moves.

On rendered heads of 64 x 64 pixels the measured opening follows the true one with a correlation of about 0.95. It is a
relative number: it compares the frames of one clip, not two clips. Faces from the side, or a second moving thing in the
window, are beyond it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

_EXPECTED, _SPREAD = (0.5, 0.7), (0.2, 0.15)
_SEARCH_Y = (0.5, 0.9)
_HALF_WIDTH, _HALF_HEIGHT, _MIDDLE = 0.16, 0.13, 0.05
_COLOR_SCALE = 40.0
_LARGEST_STEP = 0.1

Pixels = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class MouthTrack:
    """A mouth over time."""

    opening: Float[Tensor, " F"]
    """Share of the window's rows that are not skin, lower rows weighted more: 0 to 1."""
    boxes: Float[Tensor, "F 4"]
    """x0, y0, x1, y1 of the window, as fractions of the frame."""


def track_mouth(frames: UInt8[Tensor, "F H W 3"]) -> MouthTrack:
    """Finds the mouth of a frontal talking head and measures its opening in every frame.

    Raises:
        ValueError: with fewer than two frames, or a side shorter than 32 pixels.
    """
    count, height, width, _ = frames.shape
    if count < 2 or min(height, width) < 32:
        raise ValueError(f"got {count} frames of {height}x{width}; a mouth track needs 2 frames of at least 32x32")
    video = frames.cpu().numpy()
    centers = _locate(video) + _head_steps(video)
    half = np.array([max(round(_HALF_WIDTH * width), 3), max(round(_HALF_HEIGHT * height), 3)])
    centers = np.clip(centers, half, np.array([width, height]) - 1 - half)
    windows = np.stack(
        [
            frame[y - half[1] : y + half[1] + 1, x - half[0] : x + half[0] + 1]
            for frame, (x, y) in zip(video, centers, strict=True)
        ]
    )
    size = np.array([width, height])
    boxes = np.concatenate(((centers - half) / size, (centers + half + 1) / size), axis=1)
    return MouthTrack(opening=torch.from_numpy(_opening(windows, width)), boxes=torch.from_numpy(boxes).float())


def _locate(video: NDArray[np.uint8]) -> NDArray[np.int64]:
    """x, y in pixels of the window with the largest temporal deviation."""
    _, height, width, _ = video.shape
    deviation = video.std(axis=0, dtype=np.float32).sum(axis=-1)
    window = (max(round(0.22 * width), 3), max(round(0.14 * height), 3))
    y, x = np.mgrid[0:height, 0:width]
    expected = np.exp(
        -(((x / width - _EXPECTED[0]) / _SPREAD[0]) ** 2) / 2 - ((y / height - _EXPECTED[1]) / _SPREAD[1]) ** 2 / 2
    )
    likely = cv2.blur(deviation, window) * expected
    top, bottom = (int(part * height) for part in _SEARCH_Y)
    row, column = np.unravel_index(likely[top:bottom].argmax(), (bottom - top, width))
    return np.array([int(column), top + int(row)])


def _head_steps(video: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Where the head is in each frame relative to its median place, in whole pixels [F, 2]."""
    _, height, width, _ = video.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    face = np.exp(-(((x / width - 0.5) / 0.22) ** 2) - ((y / height - 0.42) / 0.2) ** 2)
    edges = np.stack([cv2.Laplacian(cv2.GaussianBlur(_gray(frame), (0, 0), 1.0), cv2.CV_32F) for frame in video]) * face
    reference = np.median(edges, axis=0).astype(np.float32)
    steps = np.array([cv2.phaseCorrelate(reference, edge.astype(np.float32))[0] for edge in edges])
    steps[np.abs(steps).max(axis=1) > _LARGEST_STEP * min(height, width)] = 0.0
    moved: NDArray[np.int64] = np.rint(steps - np.median(steps, axis=0)).astype(np.int64)
    return moved


def _gray(frame: NDArray[np.uint8]) -> Pixels:
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), dtype=np.float32)


def _opening(windows: NDArray[np.uint8], width: int) -> Pixels:
    """Opening per frame of the windows [F, h, w, 3]."""
    colors = windows.astype(np.float32)
    usual = np.median(colors, axis=(0, 2))[None, :, None]
    distance = np.linalg.norm(colors - usual, axis=-1)
    middle, reach = distance.shape[2] // 2, max(round(_MIDDLE * width), 1)
    differs = distance[:, :, middle - reach : middle + reach + 1]
    rows = (differs / (differs + _COLOR_SCALE)).mean(axis=2)
    weights = np.sqrt(np.linspace(0.0, 1.0, rows.shape[1], dtype=np.float32))
    return np.asarray(rows @ weights / weights.sum(), dtype=np.float32)
