"""Where the face of a clip is, frame by frame, and how much of the clip shows one.

A detector sees a face in some frames. What lies between two sightings that are close in time is bridged, the rest
counts as unseen: the coverage says how much of the clip a measure of the mouth rests on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, median_filter
from torch import Tensor

LEAST_COVERAGE = 0.5
"""Below it nothing is measured on a face: what is left of the clip is another clip."""
_BRIDGED_FRAMES = 12
_SMOOTHING_FRAMES = 2.0
_MEDIAN_SIGHTINGS = 3

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1; in pixels or as fractions of the frame, as is said."""


class NoFaceError(ValueError):
    """A clip shows no face, or too little of one, for a measure that needs it."""


@dataclass(frozen=True, kw_only=True)
class FaceTrack:
    """The largest face of a clip."""

    boxes: Float[Tensor, "F 4"]
    """x0, y0, x1, y1 from brow to chin, as fractions of the frame; smooth over time, the nearest known ones where the
    face is unseen."""
    is_seen: Bool[Tensor, " F"]
    """Whether a frame shows the face: it was found there, or within half a second before and after."""
    landmarks: Float[Tensor, "F points 2"] | None = None
    """x, y as fractions of the frame, numbered as in MediaPipe's face mesh; None of a finder that has none."""

    @property
    def coverage(self) -> float:
        """Share of the frames that show the face."""
        return float(self.is_seen.double().mean())


@runtime_checkable
class FaceFinder(Protocol):
    """Finds the face of a clip. Its arguments are keyword-only and typed: a configuration builds it."""

    def find(self, frames: UInt8[Tensor, "F H W 3"]) -> FaceTrack | None:
        """The clip's largest face; None where there is none."""
        ...

    def fingerprint(self) -> str:
        """What two evaluations must share for their faces to be the same: version and weights."""
        ...


def track_from_sightings(
    sightings: Mapping[int, Box], *, num_frames: int, landmarks: Mapping[int, NDArray[np.float32]] | None = None
) -> FaceTrack:
    """A track from what was found in single frames.

    Boxes between two sightings are interpolated, single outliers are dropped (median over three sightings), and the
    whole is smoothed by a Gaussian of two frames, so that a crop follows the head and not the detector's trembling.

    Args:
        sightings: by frame, the box as fractions of the frame.
        num_frames: of the clip.
        landmarks: by frame, points as fractions of the frame; for the same frames as the sightings.

    Raises:
        ValueError: without a sighting.
    """
    if not sightings:
        raise ValueError("got no sighting; a clip without one has no track")
    at = np.array(sorted(sightings))
    boxes = np.array([sightings[frame] for frame in at], dtype=np.float64)
    boxes = median_filter(boxes, size=(min(_MEDIAN_SIGHTINGS, len(at)), 1), mode="nearest")
    smooth = gaussian_filter1d(_between(at, boxes, num_frames), _SMOOTHING_FRAMES, axis=0, mode="nearest")
    points = None
    if landmarks is not None:
        flat = np.array([landmarks[frame].reshape(-1) for frame in at], dtype=np.float64)
        points = torch.from_numpy(_between(at, flat, num_frames)).float().reshape(num_frames, -1, 2)
    return FaceTrack(
        boxes=torch.from_numpy(smooth).float(), is_seen=torch.from_numpy(_seen(at, num_frames)), landmarks=points
    )


def _between(at: NDArray[np.int64], values: NDArray[np.float64], num_frames: int) -> NDArray[np.float64]:
    """Values [sightings, D] at every frame: linear between sightings, the nearest outside them."""
    frames = np.arange(num_frames)
    return np.stack([np.interp(frames, at, column) for column in values.T], axis=1)


def _seen(at: NDArray[np.int64], num_frames: int) -> NDArray[np.bool_]:
    """Frames of sightings and of the short gaps between them, and up to half a gap before the first, after the last."""
    seen = np.zeros(num_frames, dtype=bool)
    seen[at] = True
    for before, after in pairwise(at.tolist()):
        if after - before <= _BRIDGED_FRAMES:
            seen[before:after] = True
    seen[max(int(at[0]) - _BRIDGED_FRAMES // 2, 0) : at[0]] = True
    seen[at[-1] : at[-1] + _BRIDGED_FRAMES // 2 + 1] = True
    return seen


def require_face(track: FaceTrack | None) -> FaceTrack:
    """The track, where it covers at least half of the clip.

    Raises:
        NoFaceError: where there is no face, or one in fewer frames.
    """
    if track is None:
        raise NoFaceError("no face was found in the clip")
    if track.coverage < LEAST_COVERAGE:
        raise NoFaceError(
            f"a face was found in {track.coverage:.0%} of the frames; wanted at least {LEAST_COVERAGE:.0%}"
        )
    return track
