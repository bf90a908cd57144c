"""Faces with landmarks, by MediaPipe's networks from their .tflite files: slower to set up than the cascades, and
better at heads that are turned, badly lit or badly generated.

The two files (`face_detection_short_range.tflite`, `face_landmark.tflite`) come with the package `mediapipe` up to
0.10.21 (Apache-2.0), in `mediapipe/modules/`; they run in `ai-edge-litert` (the extra `[faces]`), without mediapipe
itself. Bazarevsky et al., "BlazeFace", 2019; Kartynnik et al., "Real-time facial surface geometry", 2019.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from hh_train.metrics.faces.track import Box, FaceTrack, track_from_sightings

_DETECTOR_SIDE, _MESH_SIDE = 128, 192
_GRID = ((8, 2), (16, 6))
"""Pixels a cell of the detector's grids, and anchors in a cell."""
_RIGHT_EYE, _LEFT_EYE = 33, 263
_MESH_MARGIN = 1.5
_BORDER = 0.15
_TILE = 0.6
_NUM_LOOKS = 6

Video = NDArray[np.uint8]
Points = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class _Detection:
    """A face: its box in pixels and where its eyes are."""

    box: Box
    eyes: Points
    score: float


class LandmarkFaces:
    """The largest face with 468 landmarks in every frame that shows it.

    Args:
        detector: path of `face_detection_short_range.tflite`.
        mesh: path of `face_landmark.tflite`.
        least_score: probability from which a detection, or a mesh, counts.
        num_threads: of the interpreter.

    Raises:
        ValueError: when a file is missing or is no such network, or `ai-edge-litert` is not installed.
    """

    def __init__(self, *, detector: str, mesh: str, least_score: float = 0.5, num_threads: int = 1) -> None:
        self.least_score = least_score
        self._detector = _Network(detector, _DETECTOR_SIDE, (896 * 16, 896), num_threads)
        self._mesh = _Network(mesh, _MESH_SIDE, (468 * 3, 1), num_threads)
        self._anchors = _anchors()

    def fingerprint(self) -> str:
        return f"landmarks {self._detector.digest} {self._mesh.digest} {self.least_score}"

    def find(self, frames: UInt8[Tensor, "F H W 3"]) -> FaceTrack | None:
        """The clip's largest face; None where no frame shows one.

        The face is looked for in the whole frame, and in overlapping tiles where nothing is found: small faces are
        beyond the detector otherwise. Then it is followed from mesh to mesh, and looked for again where it is lost.
        """
        video = frames.cpu().numpy()
        start = self._first(video)
        if start is None:
            return None
        points = self._follow(video, start)
        if not points:
            return None
        _, height, width, _ = video.shape
        size = np.array([width, height], np.float32)
        boxes = {frame: _box_of(mesh / size) for frame, mesh in points.items()}
        return track_from_sightings(
            boxes, num_frames=len(video), landmarks={frame: mesh / size for frame, mesh in points.items()}
        )

    def _first(self, video: Video) -> int | None:
        """The frame of the looks at the clip in which the largest face is."""
        looks = np.unique(np.linspace(0, len(video) - 1, _NUM_LOOKS).round().astype(int)).tolist()
        found = {look: detection for look in looks if (detection := self._detect(video[look])) is not None}
        return max(found, key=lambda look: _width(found[look].box), default=None)

    def _follow(self, video: Video, start: int) -> dict[int, Points]:
        """Landmarks in pixels, frame by frame, forward and backward from a frame that shows the face."""
        points: dict[int, Points] = {}
        for order in (range(start, len(video)), range(start - 1, -1, -1)):
            last = points.get(start)
            for frame in order:
                last = self._next(video[frame], last)
                if last is not None:
                    points[frame] = last
        return points

    def _next(self, frame: NDArray[np.uint8], last: Points | None) -> Points | None:
        """Where the face went; the whole frame is searched where it was lost."""
        if last is not None:
            mesh = self._mesh_at(frame, last[[_RIGHT_EYE, _LEFT_EYE]], _box_of(last))
            if mesh is not None:
                return mesh
        detection = self._detect(frame)
        return None if detection is None else self._mesh_at(frame, detection.eyes, detection.box)

    def _detect(self, frame: NDArray[np.uint8]) -> _Detection | None:
        """The largest face of a frame."""
        height, width, _ = frame.shape
        found = self._detect_in(frame, 0, 0, max(height, width))
        if found is None:
            side = round(_TILE * max(height, width))
            corners = [(x, y) for y in _starts(height, side) for x in _starts(width, side)]
            tiles = [self._detect_in(frame, x, y, side) for x, y in corners]
            found = max((t for t in tiles if t is not None), key=lambda tile: _width(tile.box), default=None)
        return found

    def _detect_in(self, frame: NDArray[np.uint8], left: int, top: int, side: int) -> _Detection | None:
        """The best face of a square of the frame (a border is added: faces that fill the square are missed else)."""
        border = round(_BORDER * side)
        span = side + 2 * border
        scale = _DETECTOR_SIDE / span
        height, width, _ = frame.shape
        x = left - border - max(side - width, 0) // 2
        y = top - border - max(side - height, 0) // 2
        to_frame = np.array([[1 / scale, 0, x], [0, 1 / scale, y]])
        picture = _sampled(frame, to_frame, _DETECTOR_SIDE)
        regressed, logits = self._detector(picture.astype(np.float32) / np.float32(127.5) - np.float32(1))
        best = int(logits.argmax())
        score = float(1 / (1 + np.exp(-np.clip(logits[best], -50, 50))))
        if score < self.least_score:
            return None
        values = regressed.reshape(-1, 16)[best].reshape(-1, 2)  # center, size, six points from the right eye on
        values[[0, 2, 3]] += self._anchors[best]
        corner = np.array([x, y], np.float32)
        center, size, eyes = values[0] / scale + corner, values[1] / scale, values[2:4] / scale + corner
        left, top = (center - size / 2).tolist()
        right, bottom = (center + size / 2).tolist()
        return _Detection(box=(left, top, right, bottom), eyes=eyes.astype(np.float32), score=score)

    def _mesh_at(self, frame: NDArray[np.uint8], eyes: Points, box: Box) -> Points | None:
        """The 468 landmarks of the face in a box, upright by its eyes; None where there is no face."""
        across = eyes[1] - eyes[0]
        angle = float(np.arctan2(across[1], across[0]))
        side = _MESH_MARGIN * max(box[2] - box[0], box[3] - box[1])
        step = side / _MESH_SIDE
        turn = step * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        center = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
        to_frame = np.column_stack((turn, center - turn @ np.full(2, _MESH_SIDE / 2)))
        mesh, logit = self._mesh(_sampled(frame, to_frame, _MESH_SIDE).astype(np.float32) / np.float32(255))
        if 1 / (1 + np.exp(-np.clip(logit[0], -50, 50))) < self.least_score:
            return None
        points = mesh.reshape(468, 3)[:, :2]
        return np.asarray(points @ turn.T + to_frame[:, 2], np.float32)


class _Network:
    """A .tflite network of one picture."""

    def __init__(self, path: str, side: int, outputs: tuple[int, int], num_threads: int) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped, unused-ignore]
        except ImportError as error:
            raise ValueError("landmarks need ai-edge-litert: pip install 'hh-train[faces]'") from error
        if not Path(path).is_file():
            raise ValueError(
                f"there is no {path}; take it out of the package mediapipe 0.10.21 (mediapipe/modules/), or use "
                "CascadeFaces"
            )
        content = Path(path).read_bytes()
        self.digest = hashlib.sha256(content).hexdigest()[:12]
        try:
            self._interpreter: Any = Interpreter(model_content=content, num_threads=num_threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{path} cannot be read as a .tflite network: {error}") from error
        given = self._interpreter.get_input_details()[0]
        sizes = {int(np.prod(d["shape"])): d["index"] for d in self._interpreter.get_output_details()}
        if list(given["shape"]) != [1, side, side, 3] or set(outputs) != set(sizes):
            raise ValueError(
                f"{path} maps {list(given['shape'])} to {sorted(sizes)} numbers; wanted [1, {side}, {side}, 3] to "
                f"{sorted(outputs)}"
            )
        self._input, self._outputs = given["index"], [sizes[size] for size in outputs]

    def __call__(self, picture: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        self._interpreter.set_tensor(self._input, picture[None])
        self._interpreter.invoke()
        first, second = (self._interpreter.get_tensor(index).reshape(-1) for index in self._outputs)
        return first, second


def _anchors() -> NDArray[np.float32]:
    """Centers of the detector's anchors in pixels of its picture [896, 2]."""
    rows = []
    for cell, per_cell in _GRID:
        count = _DETECTOR_SIDE // cell
        y, x = np.mgrid[0:count, 0:count]
        centers = (np.stack((x, y), axis=-1).reshape(-1, 2) + 0.5) * cell
        rows.append(np.repeat(centers, per_cell, axis=0))
    return np.concatenate(rows).astype(np.float32)


def _sampled(frame: NDArray[np.uint8], to_frame: NDArray[np.float64], side: int) -> NDArray[np.uint8]:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    step = float(np.hypot(to_frame[0, 0], to_frame[1, 0]))
    source = cv2.GaussianBlur(frame, (0, 0), step / 3) if step > 2 else frame
    return np.asarray(
        cv2.warpAffine(source, to_frame, (side, side), flags=flags, borderMode=cv2.BORDER_REPLICATE), np.uint8
    )


def _starts(length: int, side: int) -> list[int]:
    """Where tiles of a side begin along a length, overlapping."""
    if length <= side:
        return [0]
    count = int(np.ceil((length - side) / (0.65 * side))) + 1
    return [round(start) for start in np.linspace(0, length - side, count).tolist()]


def _box_of(points: Points) -> Box:
    left, top = points.min(axis=0).tolist()
    right, bottom = points.max(axis=0).tolist()
    return left, top, right, bottom


def _width(box: Box) -> float:
    return box[2] - box[0]
