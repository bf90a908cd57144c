"""Sizes and lengths that clips are brought to: each clip goes where it loses least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from math import sqrt
from typing import Any

Size = tuple[int, int]
"""Height and width in pixels."""
_SAME = 1e-6


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """Every size with every length."""

    sizes: tuple[Size, ...]
    """Height and width in pixels."""
    frames: tuple[int, ...] = ()
    """Lengths of clips in frames; empty: a clip keeps what it has, up to the limit of the reader."""
    max_crop: float = 1.0
    """A clip that would lose more than this share of its picture is left out."""
    max_enlargement: float | None = None
    """A clip that would be enlarged by more than this factor is left out; None takes any."""

    def __post_init__(self) -> None:
        if not self.sizes or any(side < 1 for size in self.sizes for side in size):
            raise ValueError(f"got the bucket sizes {list(self.sizes)}; wanted one or more of [height, width]")
        if any(length < 1 for length in self.frames):
            raise ValueError(f"got the bucket lengths {list(self.frames)}; wanted positive numbers of frames")
        if not 0 <= self.max_crop <= 1:
            raise ValueError(f"got max_crop {self.max_crop}; wanted a share of the picture, 0 to 1")
        if self.max_enlargement is not None and self.max_enlargement < 1:
            raise ValueError(f"got max_enlargement {self.max_enlargement}; wanted a factor of 1 or more, or null")

    def settings(self) -> dict[str, Any]:
        """All that the result depends on, as plain JSON values."""
        return asdict(self)

    def size_for(self, height: int, width: int) -> Size:
        """The size that crops the least of a picture; of equal ones the largest that does not enlarge it.

        Raises:
            ValueError: no size is within the limits. The message is the reason that the clip is left out for.
        """
        _, _, best = min(
            (round(crop_share(height, width, size) / _SAME), _preference(height, width, size), size)
            for size in self.sizes
        )
        loss, enlargement = crop_share(height, width, best), max(best[0] / height, best[1] / width)
        if loss > self.max_crop + _SAME:
            raise ValueError(
                f"fits no bucket: {width}x{height} would lose {loss:.0%} of the picture, "
                f"at most {self.max_crop:.0%} may go"
            )
        if self.max_enlargement is not None and enlargement > self.max_enlargement + _SAME:
            raise ValueError(
                f"is too small: {width}x{height} would be enlarged {enlargement:.1f} times, "
                f"at most {self.max_enlargement:g} is allowed"
            )
        return best

    def length_for(self, num_frames: int) -> int | None:
        """The longest length that so many frames fill; None when they fill none. Without lengths, all of them."""
        return (
            max((length for length in self.frames if length <= num_frames), default=None) if self.frames else num_frames
        )


def buckets_of_ratios(
    *,
    ratios: Sequence[str],
    pixels: int,
    multiple: int = 32,
    frames: Sequence[int] = (),
    max_crop: float = 1.0,
    max_enlargement: float | None = None,
) -> Buckets:
    """Buckets of about equal area: for each `width:height` the nearest sides in multiples of `multiple`.

    Args:
        ratios: such as `16:9`, `9:16`, `1:1`.
        pixels: area of each size.
        multiple: of the video codec's strides and the model's patches.
        frames: as in `Buckets`, like the limits.

    Raises:
        ValueError: a ratio that is none, or an area that is smaller than one multiple.
    """
    if multiple < 1 or pixels < multiple**2:
        raise ValueError(f"got an area of {pixels} pixels in multiples of {multiple}; wanted {multiple**2} or more")
    sizes = []
    for ratio in ratios:
        try:
            shape = Fraction(*(int(part) for part in ratio.split(":", maxsplit=1)))
        except (ValueError, ZeroDivisionError, TypeError) as error:
            raise ValueError(f"got the ratio {ratio!r}; wanted width:height, such as 16:9") from error
        if shape <= 0 or ":" not in ratio:
            raise ValueError(f"got the ratio {ratio!r}; wanted width:height, such as 16:9")
        sizes.append(_sides(float(shape), pixels, multiple))
    return Buckets(
        sizes=tuple(dict.fromkeys(sizes)), frames=tuple(frames), max_crop=max_crop, max_enlargement=max_enlargement
    )


def _sides(ratio: float, pixels: int, multiple: int) -> Size:
    """Of the four multiples around the exact sides, those that crop least, then those nearest in area."""
    height, width = sqrt(pixels / ratio), sqrt(pixels * ratio)
    near = [
        (max(1, int(height // multiple) + down) * multiple, max(1, int(width // multiple) + across) * multiple)
        for down in (0, 1)
        for across in (0, 1)
    ]
    return min(near, key=lambda size: (abs(size[1] / size[0] / ratio - 1), abs(size[0] * size[1] - pixels), size))


def crop_share(height: int, width: int, size: Size) -> float:
    """How much of a picture is lost when its middle is cut to the proportions of `size`: 0 to 1."""
    scale = min(height / size[0], width / size[1])
    return max(0.0, 1.0 - scale**2 * size[0] * size[1] / (height * width))


def _preference(height: int, width: int, size: Size) -> tuple[bool, int]:
    """Smaller is better: without enlarging the larger size, among enlarging ones the smaller."""
    enlarges = size[0] > height or size[1] > width
    return enlarges, size[0] * size[1] * (1 if enlarges else -1)
