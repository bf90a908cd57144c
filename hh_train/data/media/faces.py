"""Where the face is, by the cascade that comes with OpenCV: frontal faces only, no weights."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from torch import Tensor

_LOOKS = 5
_SEEN_IN = 3
_DETECTION_SIDE = 320
_SMALLEST_SHARE = 0.08
_NEIGHBORS = 5

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are outside."""


class _OfThread(threading.local):
    """A cascade keeps what it works on: every thread needs its own."""

    def __init__(self) -> None:
        path = Path(cv2.__file__).parent / "data" / "haarcascade_frontalface_default.xml"
        self.cascade = cv2.CascadeClassifier(str(path))


_detector = _OfThread()


def find_face(frames: UInt8[Tensor, "F H W 3"]) -> Box | None:
    """The largest frontal face of a clip, from the brow to the chin.

    Looked for in five frames spread over the clip; None unless at least three show one (all of fewer frames).
    """
    count, height, width, _ = frames.shape
    at = np.unique(np.linspace(0, count - 1, _LOOKS).round().astype(int))
    scale = min(1.0, _DETECTION_SIDE / min(height, width))
    found = []
    for index in at:
        gray = cv2.cvtColor(frames[int(index)].cpu().numpy(), cv2.COLOR_RGB2GRAY)
        small = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        smallest = max(20, round(_SMALLEST_SHARE * min(small.shape)))
        faces = _detector.cascade.detectMultiScale(
            cv2.equalizeHist(small), scaleFactor=1.1, minNeighbors=_NEIGHBORS, minSize=(smallest, smallest)
        )
        if len(faces):
            found.append(max((tuple(face) for face in faces), key=lambda face: face[2] * face[3]))
    if len(found) < min(_SEEN_IN, len(at)):
        return None
    left, top, box_width, box_height = np.median(np.array(found), axis=0) / scale
    return (
        max(0, round(left)),
        max(0, round(top)),
        min(width, round(left + box_width)),
        min(height, round(top + box_height)),
    )
