"""Shots of a film: where one picture gives way to another, found by PySceneDetect's detectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from hh_train.data.media.containers import opened, picture_stream, require_content, told_as_media_error
from hh_train.data.media.decoding import MAX_GAP_SECONDS, frame_period
from hh_train.data.media.pictures import MediaError

DetectorName = Literal["adaptive", "content", "histogram", "fade"]
_CLOCK = Fraction(1000)
"""The detectors count in whole milliseconds, since frames may come at any moment."""
_UNKNOWN_PERIOD = 0.04


@dataclass(frozen=True, kw_only=True)
class Shot:
    """A stretch of film without a cut, in seconds from the first frame."""

    start_seconds: float
    """When its first frame is shown."""
    end_seconds: float
    """When the next shot's first frame is shown, or the last one's display ends."""

    @property
    def seconds(self) -> float:
        return self.end_seconds - self.start_seconds


@dataclass(frozen=True, kw_only=True)
class CutDetector:
    """Finds hard cuts, and with `fade` those through black.

    `adaptive` compares the change between two frames with the changes around it, so that a moving camera is no cut;
    `content` and `histogram` compare it with a fixed number.
    """

    detector: DetectorName = "adaptive"
    threshold: float | None = None
    """The detector's own; None is its default: adaptive 3, content 27, histogram 0.05, fade 12."""
    min_shot_seconds: float = 0.6
    """Of two cuts that are nearer than this, one counts."""
    max_side: int = 256
    """Frames are scaled down to this before they are compared."""

    def __post_init__(self) -> None:
        if self.min_shot_seconds < 0 or self.max_side < 16:
            raise ValueError(
                f"got min_shot_seconds {self.min_shot_seconds} and max_side {self.max_side}; "
                "wanted 0 or more, and 16 or more"
            )

    def settings(self) -> dict[str, Any]:
        """All that the result depends on, as plain JSON values."""
        return asdict(self)

    def shots(self, path: str | Path) -> tuple[Shot, ...]:
        """The shots of a file from its first frame to the end of its last, without gaps. Decodes all of it.

        Raises:
            MediaError: the file is no film, or not a single frame can be decoded.
        """
        file = Path(path)
        with told_as_media_error():
            require_content(file)
            with opened(file) as container:
                return self._shots(container)

    def _shots(self, container: InputContainer) -> tuple[Shot, ...]:
        from scenedetect.common import FrameTimecode  # type: ignore[import-untyped]

        detector = self._detector()
        starts: list[float] = []
        moments: list[float] = []
        for seconds, pixels in small_frames(container, self.max_side):
            moments.append(seconds)
            moment = FrameTimecode(round(seconds * _CLOCK), fps=_CLOCK)
            starts += [cut.frame_num / float(_CLOCK) for cut in detector.process_frame(moment, pixels)]
        if not moments:
            raise MediaError("cannot be read as media: no frame can be decoded")
        starts += [cut.frame_num / float(_CLOCK) for cut in detector.post_process(moment)]
        times = np.asarray(moments)
        firsts = sorted({0, *(int(np.abs(times - start).argmin()) for start in starts)})
        period = float(np.median(np.diff(times))) if len(times) > 1 else _UNKNOWN_PERIOD
        ends = [moments[first] for first in firsts[1:]] + [moments[-1] + period]
        return tuple(
            Shot(start_seconds=moments[first], end_seconds=end) for first, end in zip(firsts, ends, strict=True)
        )

    def _detector(self) -> Any:
        """A fresh one: each keeps what it has seen."""
        from scenedetect import detectors  # type: ignore[import-untyped]

        shortest = self.min_shot_seconds
        given = {} if self.threshold is None else {"threshold": self.threshold}
        match self.detector:
            case "adaptive":
                ratio = {} if self.threshold is None else {"adaptive_threshold": self.threshold}
                return detectors.AdaptiveDetector(min_scene_len=shortest, **ratio)
            case "content":
                return detectors.ContentDetector(min_scene_len=shortest, **given)
            case "histogram":
                return detectors.HistogramDetector(min_scene_len=shortest, **given)
            case "fade":
                return detectors.ThresholdDetector(min_scene_len=shortest, **given)


def small_frames(container: InputContainer, max_side: int) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Every frame that can be decoded: seconds from the first one, and its pixels [H, W, 3] in blue, green, red.

    Packets that cannot be decoded are passed over, and so are frames that are not later than the one before. Where the
    time stamps leap as only broken ones do, the film ends.

    Raises:
        MediaError: there is no video stream.
    """
    stream = picture_stream(container)
    period = frame_period(stream) or _UNKNOWN_PERIOD
    longest_gap = max(MAX_GAP_SECONDS, 3 * period)
    reformatter = VideoReformatter()
    first, last = 0.0, -period
    for index, frame in enumerate(_decoded(container, stream)):
        stamped = frame.pts is not None and frame.time is not None
        if index == 0:
            first = frame.time if stamped else 0.0
        seconds = frame.time - first if stamped else last + period
        if seconds <= last:
            continue
        if seconds - last > longest_gap:
            return
        last = seconds
        scale = min(1.0, max_side / max(frame.width, frame.height))
        small = reformatter.reformat(
            frame,
            width=max(1, round(frame.width * scale)),
            height=max(1, round(frame.height * scale)),
            format="bgr24",
            interpolation="AREA",
            threads=1,
        )
        yield seconds, np.asarray(small.to_ndarray(), dtype=np.uint8)


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:
            return  # the file ends early
        if packet is None:
            return
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            continue
        yield from (frame for frame in frames if not frame.is_corrupt)
