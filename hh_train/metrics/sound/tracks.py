"""How long picture and sound of a file are, and whether a decoded clip has all of its sound.

Sound written at another sample rate than its own plays slower or faster, and ends elsewhere than the picture: 5 s
at 44.1 kHz that are written as 24 kHz last 9.2 s.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
from jaxtyping import Float
from torch import Tensor

from hh_train.types import Clip

SAMPLES_PER_SECOND = 16_000
LARGEST_DIFFERENCE_SECONDS = 0.1
"""Encoders pad and cut by less than this: an AAC frame lasts 64 ms at 16 kHz."""
_WRONG_SECONDS, _WRONG_SHARE = 0.25, 0.1


class BrokenSoundError(ValueError):
    """The sound of a file cannot be that of its picture."""


@dataclass(frozen=True, kw_only=True)
class TrackSeconds:
    """How long each track of a file plays."""

    picture: float
    sound: float | None
    """None without a sound track."""

    @property
    def difference(self) -> float | None:
        """Sound minus picture; positive where the sound goes on after the picture."""
        return None if self.sound is None else self.sound - self.picture

    def require_match(self) -> None:
        """Raises BrokenSoundError where the sound cannot be the picture's: it differs by a tenth, and by 0.25 s."""
        if self.sound is None or self.difference is None:
            return
        if abs(self.difference) > max(_WRONG_SECONDS, _WRONG_SHARE * self.picture):
            raise BrokenSoundError(
                f"its sound lasts {self.sound:.2f} s and its picture {self.picture:.2f} s: a truncated track, or one "
                "written at another sample rate than its own; write both of one length"
            )


def track_seconds(path: str | Path) -> TrackSeconds:
    """Lengths by the time stamps of a file's packets, without decoding. What an encoder puts before time zero is not
    played, and not counted.

    Raises:
        ValueError: the file cannot be read, or has no picture.
    """
    spans: dict[int, tuple[float, float]] = {}
    try:
        with av.open(str(path)) as container:
            kinds = {stream.index: stream.type for stream in container.streams}
            for packet in container.demux():
                if packet.pts is None or packet.time_base is None:
                    continue
                start = float(packet.pts * packet.time_base)
                end = start + float((packet.duration or 0) * packet.time_base)
                first, last = spans.get(packet.stream.index, (start, end))
                spans[packet.stream.index] = (min(first, start), max(last, end))
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(f"{path} cannot be read as media: {error}") from error
    lengths = {
        kind: [end - max(start, 0.0) for index, (start, end) in spans.items() if kinds[index] == kind]
        for kind in ("video", "audio")
    }
    if not lengths["video"]:
        raise ValueError(f"{path} has no picture")
    return TrackSeconds(picture=lengths["video"][0], sound=lengths["audio"][0] if lengths["audio"] else None)


def require_sound(clip: Clip, *, samples_per_second: int = SAMPLES_PER_SECOND) -> Float[Tensor, " S"]:
    """The clip's whole sound.

    Raises:
        ValueError: there is none, it is of another sample rate than is wanted, or it ends elsewhere than the picture: a
            truncated track, or one of another sample rate than it says.
    """
    if clip.waveform is None or not clip.waveform.numel():
        raise ValueError("it has no sound track")
    if clip.samples_per_second != samples_per_second:
        raise ValueError(f"got sound at {clip.samples_per_second} Hz; read the clip at {samples_per_second} Hz")
    picture = clip.frames.shape[0] / clip.frames_per_second
    sound = clip.waveform.shape[0] / clip.samples_per_second
    if abs(sound - picture) > LARGEST_DIFFERENCE_SECONDS:
        problem = "is truncated" if sound < picture else "goes on after the picture"
        raise ValueError(
            f"the sound track {problem}: {sound:.2f} s of sound for {picture:.2f} s of picture; write both of one "
            "length, and the true sample rate"
        )
    return clip.waveform
