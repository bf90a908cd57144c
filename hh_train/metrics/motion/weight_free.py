"""How a clip moves: flicker, optical flow, warp error, and the jerk of its mean motion. No weights.

Flicker follows VBench's temporal_flickering formula, (255 - mean |I_t - I_t+1|) / 255, which means what it says on
still clips: motion lowers it too. Flow is OpenCV's DIS (Kroeger et al., ECCV 2016). Lengths are in short sides of the
frame, times in seconds, so that sizes and frame rates compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from hh_train.metrics.clip_metric import ClipMetric

_LEAST_FLOW_SIDE = 128
_LEAST_FRAMES_FOR_JERK = 4


@dataclass(frozen=True, kw_only=True)
class MotionMeasurement:
    """Motion of one clip; jerk is None for a clip of fewer than four frames."""

    flicker: float
    """1 for a clip that never changes, 0 for black and white in turn."""
    flow: float
    """Mean length of the optical flow, short sides a second."""
    warp_error: float
    """Mean difference of a frame from the next one warped back along the flow, of 0 to 1: what it cannot explain."""
    jerk: float | None
    """Root mean square of the third derivative of the picture's mean displacement, short sides / s^3."""


def flicker(frames: UInt8[Tensor, "F H W 3"]) -> float:
    """VBench's temporal flickering, 0 to 1. Raises ValueError with fewer than two frames."""
    if frames.shape[0] < 2:
        raise ValueError(f"got {frames.shape[0]} frames; flicker compares at least 2")
    video = frames.float()
    return float(1 - (video[1:] - video[:-1]).abs().mean() / 255)


def jerk(track: Float[Tensor, "F D"], *, frames_per_second: float) -> float:
    """Root mean square length of a track's third derivative. Raises ValueError with fewer than four points."""
    if track.shape[0] < _LEAST_FRAMES_FOR_JERK:
        raise ValueError(f"got {track.shape[0]} points; a third difference needs at least {_LEAST_FRAMES_FOR_JERK}")
    third = torch.diff(track.double(), n=3, dim=0) * frames_per_second**3
    return float(third.square().sum(dim=1).mean().sqrt())


def optical_flow(frames: UInt8[Tensor, "F H W 3"]) -> Float[Tensor, "F-1 h w 2"]:
    """DIS flow (x, y) from each frame to the next, in short sides, on a grid with a short side of 128 or more."""
    gray = _gray_frames(frames)
    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    empty = np.zeros((*gray[0].shape, 2), np.float32)
    flows = [estimator.calc(first, second, empty.copy()) for first, second in pairwise(gray)]
    relative: Tensor = torch.from_numpy(np.stack(flows)) / min(gray[0].shape)
    return relative


def measure_motion(frames: UInt8[Tensor, "F H W 3"], *, frames_per_second: float) -> MotionMeasurement:
    """All four numbers of one clip. Raises ValueError with fewer than two frames."""
    still = flicker(frames)
    flows = optical_flow(frames)
    path = torch.cat((torch.zeros(1, 2), flows.mean(dim=(1, 2)).cumsum(dim=0)))
    enough = frames.shape[0] >= _LEAST_FRAMES_FOR_JERK
    return MotionMeasurement(
        flicker=still,
        flow=float(flows.norm(dim=-1).mean()) * frames_per_second,
        warp_error=_warp_error(_gray_frames(frames), flows.numpy()),
        jerk=jerk(path, frames_per_second=frames_per_second) if enough else None,
    )


def _gray_frames(frames: UInt8[Tensor, "F H W 3"]) -> list[NDArray[np.uint8]]:
    """Gray pictures, enlarged where DIS would have too few pixels for its patches."""
    height, width = frames.shape[1:3]
    scale = max(_LEAST_FLOW_SIDE / min(height, width), 1.0)
    size = (round(width * scale), round(height * scale))
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames.cpu().numpy()]
    if scale > 1:
        gray = [cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC) for picture in gray]
    return [np.asarray(picture, dtype=np.uint8) for picture in gray]


def _warp_error(gray: list[NDArray[np.uint8]], flows: NDArray[np.float32]) -> float:
    height, width = gray[0].shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    errors = []
    for (first, second), flow in zip(pairwise(gray), flows, strict=True):
        to_x, to_y = x + flow[..., 0] * min(height, width), y + flow[..., 1] * min(height, width)
        inside = (to_x >= 0) & (to_x <= width - 1) & (to_y >= 0) & (to_y <= height - 1)
        warped = cv2.remap(second.astype(np.float32), to_x, to_y, cv2.INTER_LINEAR)
        errors.append(np.abs(warped - first)[inside].mean() / 255 if inside.any() else 1.0)
    return float(np.mean(errors))


class Motion(ClipMetric):
    """Flicker, flow, warp error and jerk, averaged over clips."""

    names: ClassVar[tuple[str, ...]] = ("flicker", "flow", "warp_error", "jerk")

    def update(self, key: str, frames: UInt8[Tensor, "F H W 3"], *, frames_per_second: float) -> None:
        """Measures a decoded clip and adds it."""
        self.record_measurement(key, measure_motion(frames, frames_per_second=frames_per_second))

    def record_measurement(self, key: str, motion: MotionMeasurement) -> None:
        """`update` with what is measured already."""
        self.record(key, {name: getattr(motion, name) for name in self.names})
