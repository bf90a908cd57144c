"""Filled, antialiased shapes on a canvas, placed by the pose of a head.

Head coordinates: the face is 2 wide, its center is the origin, x points right and y down. Features lie in front of the
outline by a depth, so that turning and nodding move them against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from people import Color

Point = tuple[float, float]
Points = NDArray[np.float64]
"""[N, 2], x and y."""
Picture = NDArray[np.uint8]
"""[height, width, 3], RGB."""

ANGLES = np.linspace(0, 2 * np.pi, 72, endpoint=False)
"""Around a shape; 0 points right, a quarter turn down."""
_SUBPIXEL_BITS = 4


@dataclass(frozen=True)
class Pose:
    """Where the head is at one moment."""

    shift: tuple[float, float]
    """Right and down, in face half-widths."""
    roll: float
    """Radians."""
    turn: float
    """How far features in front move right, in face half-widths at depth 1."""
    nod: float
    blink: float
    """0 open, 1 closed."""
    brows: float
    """0 at rest, 1 raised."""


class Brush:
    """Fills shapes, given in head coordinates, on a canvas [height, width, 3] of `canvas_size` (height, width)."""

    def __init__(self, *, canvas_size: tuple[int, int], scale: float, center: Points, pose: Pose) -> None:
        self.canvas: Picture = np.zeros((*canvas_size, 3), np.uint8)
        self.scale, self.center, self.pose = scale, center, pose
        cos, sin = np.cos(pose.roll), np.sin(pose.roll)
        self._turned = np.array([(cos, sin), (-sin, cos)])

    def place(self, points: Points, depth: float = 0.0, moving: float = 1.0) -> Points:
        """Head coordinates -> canvas pixels. The body takes part in the head's motion by the share `moving`."""
        pose = self.pose
        lead = np.array([pose.turn, pose.nod]) * depth
        pivot = np.array([0.0, 1.3])
        turned = (points + lead - pivot) @ self._turned + pivot if moving == 1.0 else points
        return (turned + moving * np.array(pose.shift)) * self.scale + self.center

    def polygon(self, points: Points | Sequence[Point], color: Color, depth: float = 0.0, moving: float = 1.0) -> None:
        """A filled shape; its corners in order."""
        placed = self.place(np.asarray(points, np.float64), depth, moving)
        fixed = np.round(placed * 2**_SUBPIXEL_BITS).astype(np.int32)
        cv2.fillPoly(self.canvas, [fixed], color, cv2.LINE_AA, _SUBPIXEL_BITS)

    def ellipse(self, center: Point, radii: Point, color: Color, depth: float = 0.0) -> None:
        """A filled ellipse."""
        unit = np.stack([np.cos(ANGLES), np.sin(ANGLES)], 1)
        self.polygon(unit * radii + center, color, depth)

    def curve(self, points: Sequence[Point], color: Color, width: float, depth: float = 0.0) -> None:
        """A smooth line of a width in head coordinates."""
        dense = _dense(np.asarray(points, np.float64))
        fixed = np.round(self.place(dense, depth) * 2**_SUBPIXEL_BITS).astype(np.int32)
        thickness = max(1, round(width * self.scale))
        cv2.polylines(self.canvas, [fixed], False, color, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)


def _dense(points: Points) -> Points:
    """Three points become a parabola through them; more are taken as they are."""
    if len(points) != 3:
        return points
    t = np.linspace(0, 1, 9)[:, None]
    first, middle, last = points
    control = 2 * middle - (first + last) / 2
    curve: Points = (1 - t) ** 2 * first + 2 * t * (1 - t) * control + t**2 * last
    return curve


def mix(color: Color, other: Color, share: float) -> Color:
    """`share` of the other color mixed in."""
    red, green, blue = (round((1 - share) * a + share * b) for a, b in zip(color, other, strict=True))
    return red, green, blue
