"""Media containers: opening them safely, choosing their streams, finding a place in them."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import av
import cv2
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from hh_train.data.media.pictures import MediaError, check_size
from hh_train.data.media.sound_track import SoundTrack

_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,mxf,gif,wav,mp3,aac,flac"
"""Playlists and the like, which make a reader open other files and addresses, are not among them."""
_TIMEOUT_SECONDS = 60.0
_PACKETS_TO_FIRST_FRAME = 2000


@contextmanager
def told_as_media_error() -> Iterator[None]:
    """Whatever the libraries raise over a file is the file's fault."""
    try:
        yield
    except MediaError:
        raise
    except av.error.FFmpegError as error:
        raise MediaError(f"cannot be read as media: {error.strerror or error}") from error
    except OSError as error:
        raise MediaError(f"cannot be read as media: {error.strerror or type(error).__name__}") from error
    except (ValueError, ArithmeticError, LookupError, MemoryError, cv2.error) as error:
        raise MediaError(f"cannot be decoded: {type(error).__name__}: {error}") from error


def require_content(path: Path) -> None:
    """Raises where opening would fail without saying why, or, as with pipes, wait for ever."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise MediaError("cannot be read as media: it is no regular file")
    if status.st_size == 0:
        raise MediaError("cannot be read as media: the file is empty")


@contextmanager
def opened(path: Path) -> Iterator[InputContainer]:
    """A container of footage. Reads no other file and no address, whatever the file says."""
    options = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
    with av.open(
        f"file:{path}", "r", options=options, metadata_errors="replace", timeout=_TIMEOUT_SECONDS
    ) as container:
        yield container


def picture_stream(container: InputContainer) -> VideoStream:
    """The first moving picture; not the cover of a piece of music.

    Raises:
        MediaError: there is none, or none that can be decoded.
    """
    for stream in container.streams.video:
        if not stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails):
            if stream.codec_context is None:
                raise MediaError("has a picture in a format that cannot be decoded")
            check_size(stream.width, stream.height)
            stream.codec_context.thread_count = 1
            return stream
    raise MediaError("has no picture: wanted a video stream")


def sound_track(container: InputContainer) -> SoundTrack | None:
    """The main sound; None when the file has none.

    Raises:
        MediaError: there is sound, but none that can be decoded.
    """
    best = container.streams.best("audio")
    streams = [best] if isinstance(best, AudioStream) else list(container.streams.audio)
    for stream in streams:
        if stream.codec_context is not None:
            return SoundTrack(stream)
    if streams:
        raise MediaError("has sound in a format that cannot be decoded")
    return None


def first_frame(container: InputContainer, stream: VideoStream) -> tuple[VideoFrame, float]:
    """The first frame that can be decoded, and its time stamp in seconds.

    Raises:
        MediaError: there is none.
    """
    for packet in islice(container.demux(stream), _PACKETS_TO_FIRST_FRAME):
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            continue
        for frame in frames:
            if not frame.is_corrupt:
                return frame, 0.0 if frame.pts is None or frame.time is None else frame.time
    raise MediaError("cannot be read as media: no picture can be decoded")


def stated_end_seconds(container: InputContainer, stream: VideoStream) -> float | None:
    """The time stamp where the file says that its picture ends; None when it says nothing."""
    if stream.duration and stream.time_base:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    if not container.duration:
        return None
    counts_from_zero = "matroska" in container.format.name
    return (container.duration + (0 if counts_from_zero else container.start_time or 0)) / av.time_base


def enter(container: InputContainer, stream: VideoStream, seconds: float) -> bool:
    """Goes to the last key frame before a time stamp; False where the container cannot."""
    base = stream.time_base
    if base is None:
        return False
    try:
        container.seek(max(stream.start_time or 0, int(seconds / base)), stream=stream)
    except av.error.FFmpegError:
        return False
    return True
