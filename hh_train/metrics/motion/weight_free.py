"""How a clip moves: flicker, optical flow, warp error, and jerk. No weights.

Flicker follows VBench's temporal_flickering formula, (255 - mean |I_t - I_t+1|) / 255, which means what it says on
still clips: motion lowers it too. Flow is OpenCV's DIS (Kroeger et al., ECCV 2016). Lengths are in short sides of the
frame, times in seconds, so that sizes and frame rates compare.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
from hh_train.metrics.motion.dynamic_degree import compared_frames, flow_speed, strongest_flow

_FLOW_SIDES = (128, 256)
"""Least and greatest short side in pixels that flow is estimated at."""
_LEAST_FRAMES_FOR_JERK = 4


@dataclass(frozen=True, kw_only=True)
class MotionMeasurement:
    """Motion of one clip; None where the clip has too few frames."""

    flicker: float
    """1 for a clip that never changes, 0 for black and white in turn."""
    flow: float
    """Mean length of the optical flow, short sides a second."""
    dynamic_flow: float | None
    """The continuous dynamic degree: mean length of the largest 5 % of the flow over an eighth of a second, short sides
    a second. VBench's yes or no is made of the same flow."""
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


def landmark_jerk(landmarks: Float[Tensor, "F P 2"], *, frames_per_second: float) -> float:
    """Root mean square length of the third derivative over all points, in the landmarks' unit / s^3: how much a tracked
    face trembles. Raises ValueError with fewer than four frames.
    """
    count = max(landmarks.shape[1], 1)
    return jerk(landmarks.flatten(1), frames_per_second=frames_per_second) / math.sqrt(count)


def optical_flow(frames: UInt8[Tensor, "F H W 3"]) -> Float[Tensor, "F-1 h w 2"]:
    """DIS flow (x, y) from each frame to the next, in short sides, on a grid with a short side of 128 to 256.

    Raises:
        ValueError: for fewer than two frames.
    """
    return _flow(_gray_frames(frames))


def measure_motion(frames: UInt8[Tensor, "F H W 3"], *, frames_per_second: float) -> MotionMeasurement:
    """All numbers of one clip. Raises ValueError with fewer than two frames."""
    still = flicker(frames)
    gray = _gray_frames(frames)
    flows = _flow(gray)
    path = torch.cat((torch.zeros(1, 2), flows.mean(dim=(1, 2)).cumsum(dim=0)))
    enough = frames.shape[0] >= _LEAST_FRAMES_FOR_JERK
    return MotionMeasurement(
        flicker=still,
        flow=float(flows.norm(dim=-1).mean()) * frames_per_second,
        dynamic_flow=_dynamic_flow(gray, flows, frames_per_second),
        warp_error=_warp_error(gray, flows.numpy()),
        jerk=jerk(path, frames_per_second=frames_per_second) if enough else None,
    )


def _gray_frames(frames: UInt8[Tensor, "F H W 3"]) -> list[NDArray[np.uint8]]:
    """Gray pictures, enlarged where DIS would have too few pixels for its patches, and reduced where more of them only
    take time and make clips of different sizes differ.
    """
    height, width = frames.shape[1:3]
    short = min(height, width)
    scale = min(max(short, _FLOW_SIDES[0]), _FLOW_SIDES[1]) / short
    size = (round(width * scale), round(height * scale))
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames.cpu().numpy()]
    if scale != 1:
        mode = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
        gray = [cv2.resize(picture, size, interpolation=mode) for picture in gray]
    return [np.asarray(picture, dtype=np.uint8) for picture in gray]


def _flow(gray: Sequence[NDArray[np.uint8]]) -> Tensor:
    if len(gray) < 2:
        raise ValueError(f"got {len(gray)} frames; flow goes from one to the next")
    estimator = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    empty = np.zeros((*gray[0].shape, 2), np.float32)
    flows = [estimator.calc(first, second, empty.copy()) for first, second in pairwise(gray)]
    relative: Tensor = torch.from_numpy(np.stack(flows)) / min(gray[0].shape)
    return relative


def _dynamic_flow(gray: Sequence[NDArray[np.uint8]], flows: Tensor, frames_per_second: float) -> float | None:
    compared = compared_frames(len(gray), frames_per_second)
    if len(compared) < 2:
        return None
    taken = flows if compared.step == 1 else _flow([gray[i] for i in compared])
    strengths = [strongest_flow(flow.permute(2, 0, 1)) for flow in taken]
    return flow_speed(strengths, num_frames=len(gray), frames_per_second=frames_per_second)


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
    """`MotionMeasurement`, averaged over clips."""

    names: ClassVar[tuple[str, ...]] = tuple(MotionMeasurement.__dataclass_fields__)

    def update(self, key: str, frames: UInt8[Tensor, "F H W 3"], *, frames_per_second: float) -> None:
        """Measures a decoded clip and adds it."""
        self.record_measurement(key, measure_motion(frames, frames_per_second=frames_per_second))

    def record_measurement(self, key: str, motion: MotionMeasurement) -> None:
        """`update` with what is measured already."""
        self.record(key, {name: getattr(motion, name) for name in self.names})
