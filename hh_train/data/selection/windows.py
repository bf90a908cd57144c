"""Which stretches of a file become clips: at the head of each shot, spread over it, or one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Literal

from hh_train.data.footage.files import FootageFile
from hh_train.data.selection.buckets import Buckets, Size
from hh_train.data.selection.cuts import Shot

Placement = Literal["head", "uniform", "sliding"]
PART_SECONDS = 0.5
"""A clip that leaves out less than this of its file counts as the whole file."""
_MILLISECOND = 1e-3


@dataclass(frozen=True, kw_only=True)
class ClipWindow:
    """A stretch of a file that becomes one clip."""

    file: FootageFile
    key: str
    """Name of the clip: the file's, with the start in milliseconds where a file may give several clips."""
    start_seconds: float
    num_frames: int
    """Frames to read, or the most of them where the length of the file is not known."""
    size: Size
    """Height and width in pixels that the clip is brought to."""
    shots: tuple[Shot, ...] = ()
    """The shots in it, cut to the window; times are those of the file. Empty when cuts were not looked for."""
    is_part: bool = False
    """Whether the file goes on before or after it, so that what is said of the file may not hold for the clip."""

    @property
    def split(self) -> str:
        return self.file.split


@dataclass(frozen=True, kw_only=True)
class WindowPlan:
    """Lays windows into the shots of a file.

    `head` takes the start of each shot; `uniform` takes `count` windows that do not overlap, the first at the start and
    the last at the end; `sliding` starts one every `stride_frames`. Windows stay within their shots, unless several
    shots may make one clip: then each `max_shots` consecutive ones are treated as one.
    """

    placement: Placement = "head"
    count: int = 1
    """Windows a shot for `uniform`."""
    stride_frames: int | None = None
    """For `sliding`; None starts each window where the last one ended."""
    max_shots: int = 1
    """Shots that one clip may show: 1 splits at every cut."""

    def __post_init__(self) -> None:
        if self.count < 1 or self.max_shots < 1 or (self.stride_frames is not None and self.stride_frames < 1):
            raise ValueError(
                f"got count {self.count}, max_shots {self.max_shots}, stride_frames {self.stride_frames}; "
                "wanted positive numbers"
            )

    def settings(self) -> dict[str, Any]:
        """All that the result depends on, as plain JSON values."""
        return asdict(self)

    def groups(self, shots: Sequence[Shot]) -> list[tuple[Shot, ...]]:
        """The shots that may make a clip together, in their order."""
        return [tuple(shots[index : index + self.max_shots]) for index in range(0, len(shots), self.max_shots)]

    def offsets(self, available: int, length: int) -> list[int]:
        """First frames of the windows of `length` frames in a stretch of `available` frames."""
        match self.placement:
            case "head":
                return [0]
            case "sliding":
                return list(range(0, available - length + 1, self.stride_frames or length))
            case "uniform":
                count = min(self.count, available // length)
                last = available - length
                return [round(last * index / (count - 1)) for index in range(count)] if count > 1 else [0]


@dataclass(frozen=True, kw_only=True)
class WindowLengths:
    """The lengths that clips may have: k * multiple + 1 frames, from `shortest` to `longest`, or those of buckets."""

    buckets: Buckets
    multiple: int
    shortest: int
    longest: int

    def fitting(self, num_frames: int) -> int | None:
        """The longest of the lengths that so many frames fill; None when there are too few."""
        if self.buckets.frames:
            return self.buckets.length_for(num_frames)
        length = (min(num_frames, self.longest) - 1) // self.multiple * self.multiple + 1
        return length if length >= self.shortest else None

    @property
    def least(self) -> int:
        """The fewest frames that make a clip."""
        return min(self.buckets.frames, default=self.shortest)

    @property
    def most(self) -> int:
        """The longest clip that there can be."""
        return max(self.buckets.frames, default=self.longest)


def count_frames(seconds: float, frames_per_second: float) -> int:
    """Ticks of the frame rate in a stretch that starts at a tick. Half a tick after each, when its frame is read, the
    stretch still lasts (to a thousandth of a second).
    """
    return max(0, ceil((seconds - _MILLISECOND) * frames_per_second - 0.5))


def shots_within(shots: Sequence[Shot], start_seconds: float, end_seconds: float) -> tuple[Shot, ...]:
    """The parts of shots in a stretch of time. Slivers of less than a millisecond are no shots."""
    cut = (
        Shot(start_seconds=max(shot.start_seconds, start_seconds), end_seconds=min(shot.end_seconds, end_seconds))
        for shot in shots
    )
    return tuple(shot for shot in cut if shot.seconds > _MILLISECOND)


def window_key(key: str, start_seconds: float) -> str:
    """The name of a window of a file that may give several."""
    return f"{key}_{round(start_seconds * 1000):09d}"
