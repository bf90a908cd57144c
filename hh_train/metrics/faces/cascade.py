"""Frontal faces by the cascades that come with OpenCV: no weights to fetch, drawn heads of 64 pixels included.

A cascade misses many single frames of a drawn or badly generated head. Evidence is therefore pooled: raw hits of two
cascades, on frames spread over the clip and on their mirror images, are grouped, and the face is where enough of them
agree. Small pictures are enlarged first; otherwise a small face would be lost without a word. Around the place that is
found, single frames are then searched at the face's own scale.

Of 600 rendered close-ups about one in fourteen is missed, nearly all of them dark faces under fair hair, of generated
heads with seams one in four: a clip that is missed is counted as one without a face. `LandmarkFaces` finds them all.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from hh_train.metrics.faces.track import Box, FaceTrack, track_from_sightings

_VERSION = 1
_CASCADES = ("haarcascade_frontalface_alt2.xml", "haarcascade_frontalface_alt.xml")
_BORDER = 0.25
_SMALLEST_FACE = 0.18
_ENOUGH_HITS, _CLEAR_HITS = 8, 12
_GROUPING = 0.3
_TRACKED_FACE_PIXELS = 64
_TRACKED_REACH = 0.45

Gray = NDArray[np.uint8]
Video = NDArray[np.uint8]
Rectangle = tuple[int, int, int, int]
"""Left, top, width, height in pixels."""


class _OfThread(threading.local):
    """A cascade keeps what it works on: every thread needs its own."""

    def __init__(self) -> None:
        folder = Path(cv2.__file__).parent / "data"
        self.cascades = tuple(cv2.CascadeClassifier(str(folder / name)) for name in _CASCADES)


_of_thread = _OfThread()


class CascadeFaces:
    """The largest frontal face that Viola and Jones' cascades agree on ("Rapid object detection", 2001).

    Args:
        side: pixels that a picture's shorter side is scaled to, up or down, for the search over the whole frame.
        num_looks: frames, spread over the clip, that are searched as a whole.
        stride: every so many frames the face is looked for again where it was.
    """

    def __init__(self, *, side: int = 128, num_looks: int = 8, stride: int = 4) -> None:
        if side < 64 or num_looks < 1 or stride < 1:
            raise ValueError(
                f"got side {side}, num_looks {num_looks}, stride {stride}; wanted a side of at least 64 and positive "
                "numbers of frames"
            )
        self.side, self.num_looks, self.stride = side, num_looks, stride

    def fingerprint(self) -> str:
        return f"cascade-{_VERSION} opencv-{cv2.__version__} {self.side}/{self.num_looks}/{self.stride}"

    def find(self, frames: UInt8[Tensor, "F H W 3"]) -> FaceTrack | None:
        """The clip's largest face; None where the evidence is thin. Faces under a fifth of the side are looked for at
        twice the scale once nothing larger is found.
        """
        video = frames.cpu().numpy()
        for side in (self.side, 2 * self.side):
            if side == self.side or side <= min(video.shape[1:3]):
                anchor = self._locate(video, side)
                sightings = {} if anchor is None else dict(self._sightings(video, *anchor))
                if sightings:
                    return track_from_sightings(sightings, num_frames=len(video))
        return None

    def _locate(self, video: Video, side: int) -> tuple[int, Box] | None:
        """The face over the whole clip: the frame that settled it, and its box in pixels."""
        count, height, width, _ = video.shape
        scale = side / min(height, width)
        border = round(_BORDER * side)
        looks = np.unique(np.linspace(0, count - 1, self.num_looks).round().astype(int))
        hits: list[Rectangle] = []
        face, support, settled = None, 0, 0
        for look in _middle_first(looks.tolist()):
            pictures = _prepared(video[look], scale, border)
            for found in _views(pictures, smallest=round(_SMALLEST_FACE * self.side), largest=side + 2 * border):
                hits += found
                before, (face, support) = support, _agreed(hits)
                settled = look if support > before else settled
                if support >= _CLEAR_HITS:
                    break
            if support >= _CLEAR_HITS:
                break
        if face is None or support < _ENOUGH_HITS:
            return None
        left, top = (face[0] - border) / scale, (face[1] - border) / scale
        return settled, (left, top, left + face[2] / scale, top + face[3] / scale)

    def _sightings(self, video: Video, start: int, anchor: Box) -> Iterator[tuple[int, Box]]:
        """Frames in which the face is seen near the place where it was last, with its box as fractions of the frame:
        from the start on, then from the start back.
        """
        count, height, width, _ = video.shape
        for order in ((*range(start, count, self.stride), count - 1), (*range(start, -1, -self.stride), 0)):
            last = anchor
            for frame in order:
                found = _near(video[frame], last) or (_near(video[frame], anchor) if last != anchor else None)
                if found is not None:
                    last = found
                    yield frame, _fractions(found, height, width)


def _middle_first(looks: list[int]) -> list[int]:
    """Speakers are at rest at both ends, and are often faded in: the middle is where to begin."""
    middle = looks[len(looks) // 2]
    return sorted(looks, key=lambda look: abs(look - middle))


def _prepared(frame: NDArray[np.uint8], scale: float, border: int = 0) -> Iterator[Gray]:
    """Gray, then red: scaled, their contrast equalized by regions. Without that, dark skin is hardly ever found."""
    interpolation = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    for picture in (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.ascontiguousarray(frame[..., 0])):
        scaled = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=interpolation)
        yield np.pad(np.asarray(cv2.createCLAHE(2.0, (4, 4)).apply(scaled), np.uint8), border, mode="edge")


def _views(pictures: Iterable[Gray], *, smallest: int, largest: int) -> Iterator[list[Rectangle]]:
    """Hits of one cascade after the other, on a picture and on its mirror image: no cascade is symmetric."""
    for picture in pictures:
        mirrored = np.ascontiguousarray(picture[:, ::-1])
        for cascade in range(len(_CASCADES)):
            yield _detect(picture, cascade, smallest=smallest, largest=largest)
            hits = _detect(mirrored, cascade, smallest=smallest, largest=largest)
            yield [(picture.shape[1] - left - across, top, across, down) for left, top, across, down in hits]


def _detect(gray: Gray, cascade: int, *, smallest: int, largest: int) -> list[Rectangle]:
    """Raw hits, ungrouped."""
    found = _of_thread.cascades[cascade].detectMultiScale(
        gray,
        scaleFactor=1.1,
        minNeighbors=0,
        minSize=(smallest, smallest),
        maxSize=(largest, largest),
    )
    return [(int(left), int(top), int(across), int(down)) for left, top, across, down in found]


def _agreed(hits: Sequence[Rectangle]) -> tuple[Rectangle | None, int]:
    """The group with the most hits, weighted by its width: a face outranks those behind it. Thin groups come last."""
    if not hits:
        return None, 0
    groups, counts = cv2.groupRectangles(list(hits), 1, _GROUPING)
    if not len(groups):
        return None, 0
    enough = np.asarray(counts) >= _ENOUGH_HITS
    weights = np.where(enough, 1e6, 0) + np.asarray(counts) * np.asarray(groups)[:, 2]
    best = int(weights.argmax())
    left, top, across, down = (int(v) for v in groups[best])
    return (left, top, across, down), int(counts[best])


def _near(frame: NDArray[np.uint8], box: Box) -> Box | None:
    """The face about a known place, searched at its own scale; in pixels."""
    height, width, _ = frame.shape
    size = box[2] - box[0]
    reach = _TRACKED_REACH * size
    pad = int(np.ceil(reach + size))
    padded = cv2.copyMakeBorder(frame, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
    left, top = round(box[0] - reach) + pad, round(box[1] - reach) + pad
    side = round(size + 2 * reach)
    left, top = (int(np.clip(at, 0, limit + 2 * pad - side)) for at, limit in ((left, width), (top, height)))
    scale = _TRACKED_FACE_PIXELS / size
    pictures = _prepared(np.ascontiguousarray(padded[top : top + side, left : left + side]), scale)
    smallest, largest = (round(_TRACKED_FACE_PIXELS * share) for share in (0.75, 1.35))
    hits: list[Rectangle] = []
    for found in _views(pictures, smallest=smallest, largest=largest):
        hits += found
        face, _ = _agreed(hits)
        if face is not None:
            x0, y0 = face[0] / scale + left - pad, face[1] / scale + top - pad
            return x0, y0, x0 + face[2] / scale, y0 + face[3] / scale
    return None


def _fractions(box: Box, height: int, width: int) -> Box:
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height
