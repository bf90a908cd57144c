"""Media files to clips and back, through PyAV. Picture and sound keep their timing, since time stamps place both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace
from av.video.stream import VideoStream

from hh_train.data.media.containers import (
    enter,
    first_frame,
    opened,
    picture_stream,
    require_content,
    sound_track,
    stated_end_seconds,
    told_as_media_error,
)
from hh_train.data.media.decoding import (
    LEAST_BT709_HEIGHT,
    MAX_GAP_SECONDS,
    FrameSampler,
    decode,
    frame_period,
    pixel_aspect,
    upright_size,
)
from hh_train.data.media.pictures import MediaError, Pixels, image_size, is_image, read_image, resize_and_crop
from hh_train.data.media.sound_track import Samples, resample
from hh_train.types import Clip

__all__ = ["MediaError", "MediaInfo", "MediaReader", "resample", "resize_and_crop", "write_clip"]

_PREROLLS_SECONDS = (1.0, 10.0)
"""Decoded before a window, so that the sound decoder has settled and no sound that is stored earlier is missed."""
_PLAUSIBLE_SECONDS = 12 * 3600.0
_PLAUSIBLE_BYTES_PER_SECOND = 1000.0


@dataclass(frozen=True, kw_only=True)
class MediaInfo:
    """What a file says of itself, before it is decoded."""

    seconds: float
    """Of the picture, from its first frame on; 0 for an image."""
    height: int
    """Of the upright picture with square pixels; likewise `width`."""
    width: int
    frames_per_second: float
    """On average; 0 for an image."""
    has_audio: bool
    is_image: bool = False


@dataclass(frozen=True, kw_only=True)
class MediaReader:
    """Reads media files as clips of one frame rate, sample rate and, if wanted, size.

    Frames are those on display in the middle of each tick of the wanted rate. With a size, the picture is cropped about
    its center to the wanted proportions, then scaled. Time counts from the first frame; sound before it is cut, and
    what is missing after it is silence. What a file is, its first bytes say, not its name. An image is a clip of one
    frame.

    A file that ends early, or whose time stamps leap, is read up to there. One that is damaged in the middle of what
    is wanted is refused.
    """

    frames_per_second: float = 25.0
    samples_per_second: int = 16_000
    size: tuple[int, int] | None = None
    """Height and width in pixels; None keeps the file's."""
    frame_multiple: int = 4
    """Clips are cut to k * frame_multiple + 1 frames."""
    min_frames: int = 5
    """Of a video; images have one."""
    max_frames: int | None = None

    def read(
        self,
        path: str | Path,
        *,
        start_seconds: float = 0.0,
        max_frames: int | None = None,
        size: tuple[int, int] | None = None,
    ) -> Clip:
        """Decodes a file, or the part of it from `start_seconds` on. Without a sound track there is no waveform.

        Args:
            start_seconds: after the first frame; exact to the frame, wherever the file can be entered.
            max_frames: instead of the reader's own.
            size: instead of the reader's own.

        Raises:
            MediaError: the file is missing, no picture, damaged, or too short.
        """
        if not 0.0 <= start_seconds < float("inf"):
            raise ValueError(f"got start_seconds {start_seconds}; wanted zero or more")
        file = Path(path)
        size = self.size if size is None else size
        max_frames = self.max_frames if max_frames is None else max_frames
        with told_as_media_error():
            require_content(file)
            if is_image(file):
                return self._image(read_image(file), size)
            return self._video(file, start_seconds, max_frames, size)

    def probe(self, path: str | Path) -> MediaInfo:
        """What the file says of itself. Decodes its first frame alone.

        Where the stated length is missing or not plausible, it is that of the packets.

        Raises:
            MediaError: the file is missing, has no picture, or its first frame cannot be decoded.
        """
        file = Path(path)
        with told_as_media_error():
            require_content(file)
            if is_image(file):
                height, width = image_size(file)
                return MediaInfo(
                    seconds=0.0, height=height, width=width, frames_per_second=0.0, has_audio=False, is_image=True
                )
            return _probe(file)

    def _image(self, pixels: Pixels, size: tuple[int, int] | None) -> Clip:
        if size is not None and pixels.shape[:2] != size:
            pixels = resize_and_crop(pixels, height=size[0], width=size[1])
        return self._clip(pixels[None], None)

    def _video(self, path: Path, start: float, max_frames: int | None, size: tuple[int, int] | None) -> Clip:
        if start == 0.0:
            return self._window(path, None, (), max_frames, size)
        with opened(path) as container:
            origin = first_frame(container, picture_stream(container))[1]
        prerolls = tuple(preroll for preroll in _PREROLLS_SECONDS if preroll < start)
        return self._window(path, origin + start, prerolls, max_frames, size)

    def _window(
        self,
        path: Path,
        start: float | None,
        prerolls: tuple[float, ...],
        max_frames: int | None,
        size: tuple[int, int] | None,
    ) -> Clip:
        """The clip from the time stamp `start` on; from the first frame for None.

        The file is entered the first of `prerolls` seconds before; where that turns out too late, the next of them; or
        else at its start.
        """
        with opened(path) as container:
            stream = picture_stream(container)
            sound = sound_track(container)
            picture = FrameSampler(
                frames_per_second=self.frames_per_second,
                stream=stream,
                size=size,
                max_frames=max_frames,
                start_seconds=start,
                stated_end_seconds=stated_end_seconds(container, stream),
            )
            if start is None or not prerolls:
                decode(container, picture, sound)
            else:
                if enter(container, stream, start - prerolls[0]):
                    decode(container, picture, sound)
                if picture.first_seconds is None or picture.first_seconds > start:
                    return self._window(path, start, prerolls[1:], max_frames, size)
            if picture.first_seconds is None:
                raise MediaError("cannot be read as media: no picture can be decoded")
            count = self._usable(len(picture.frames), max_frames)
            waveform = None
            if sound is not None and picture.start_seconds is not None:
                num_samples = round(count * self.samples_per_second / self.frames_per_second)
                waveform = sound.waveform(picture.start_seconds, num_samples, self.samples_per_second)
        return self._clip(np.stack(picture.frames[:count]), waveform)

    def _clip(self, frames: Pixels, waveform: Samples | None) -> Clip:
        return Clip(
            frames=torch.from_numpy(frames),
            frames_per_second=self.frames_per_second,
            waveform=None if waveform is None else torch.from_numpy(waveform),
            samples_per_second=self.samples_per_second,
        )

    def _usable(self, num_frames: int, max_frames: int | None) -> int:
        """The frames to keep of those there are."""
        if num_frames < self.min_frames:
            raise MediaError(
                f"is too short: {num_frames} frames at {self.frames_per_second:g} a second, "
                f"wanted {self.min_frames} at the least"
            )
        limit = num_frames if max_frames is None else min(num_frames, max_frames)
        return (limit - 1) // self.frame_multiple * self.frame_multiple + 1


def _probe(path: Path) -> MediaInfo:
    with opened(path) as container:
        stream = picture_stream(container)
        has_audio = sound_track(container) is not None
        frame, start = first_frame(container, stream)
        height, width = upright_size(frame, pixel_aspect(stream))
        period = frame_period(stream)
        seconds = (stated_end_seconds(container, stream) or start) - start
    plausible = min(_PLAUSIBLE_SECONDS, path.stat().st_size / _PLAUSIBLE_BYTES_PER_SECOND)
    if not 0.0 < seconds <= plausible:
        seconds = _seconds_of_packets(path, start)
    rate = 1 / period if period else 0.0
    return MediaInfo(seconds=seconds, height=height, width=width, frames_per_second=rate, has_audio=has_audio)


def _seconds_of_packets(path: Path, start: float) -> float:
    """From the first frame to the end of the last packet before time stamps leap."""
    stamps = []
    with opened(path) as container:
        stream = picture_stream(container)
        period = frame_period(stream)
        try:
            for packet in container.demux(stream):
                if packet.pts is not None and packet.time_base is not None:
                    stamps.append(float(packet.pts * packet.time_base))
        except av.error.FFmpegError:
            pass  # as far as it can be read
    end = start
    for stamp in sorted(stamps):
        if stamp - end > MAX_GAP_SECONDS:
            break
        end = max(end, stamp)
    return end - start + period


def write_clip(path: str | Path, clip: Clip, *, quality: int = 16, sound_bit_rate: int = 96_000) -> None:
    """Writes an mp4 with H.264 picture and, if the clip has sound, AAC.

    The same clip gives the same bytes. The file appears under its name when it is complete. Odd sizes grow by a
    repeated row or column, since the format halves the resolution of color.

    Args:
        quality: x264's constant rate factor: 0 is lossless, 16 is close to it, 51 is the worst.
        sound_bit_rate: of the sound, in bits a second.

    Raises:
        ValueError: the clip has no frames.
    """
    if clip.frames.shape[0] == 0:
        raise ValueError(f"cannot write {path}: the clip has no frames")
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.with_name(f".{final.name}.partial")
    try:
        with av.open(
            str(partial), "w", format="mp4", options={"movflags": "+faststart", "fflags": "+bitexact"}
        ) as container:
            picture = _add_picture(container, clip, quality)
            sound = None if clip.waveform is None else _add_sound(container, clip, sound_bit_rate)
            container.start_encoding()
            _mux(container, picture, sound, clip)
        partial.replace(final)
    finally:
        partial.unlink(missing_ok=True)


def _frame_rate(clip: Clip) -> Fraction:
    return Fraction(clip.frames_per_second).limit_denominator(1001)


def _add_picture(container: OutputContainer, clip: Clip, quality: int) -> VideoStream:
    rate = _frame_rate(clip)
    stream = container.add_stream("libx264", rate=rate)
    height, width = clip.frames.shape[1:3]
    stream.height, stream.width = height + height % 2, width + width % 2
    stream.pix_fmt = "yuv420p"
    stream.codec_context.thread_count = 1
    if height >= LEAST_BT709_HEIGHT:
        stream.codec_context.colorspace = Colorspace.ITU709
    stream.options = {"crf": str(quality), "preset": "veryfast", "flags": "+bitexact"}
    return stream


def _add_sound(container: OutputContainer, clip: Clip, bit_rate: int) -> AudioStream:
    stream = container.add_stream("aac", rate=clip.samples_per_second, layout="mono")
    stream.bit_rate = bit_rate
    stream.options = {"flags": "+bitexact"}
    return stream


def _mux(container: OutputContainer, picture: VideoStream, sound: AudioStream | None, clip: Clip) -> None:
    for frame in _video_frames(clip):
        container.mux(picture.encode(frame))
    container.mux(picture.encode())
    if sound is not None and clip.waveform is not None:
        samples = clip.waveform.detach().cpu().float().clamp(-1, 1).numpy()[None]
        track = AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout="mono")
        track.sample_rate = clip.samples_per_second
        track.time_base = Fraction(1, clip.samples_per_second)
        track.pts = 0
        container.mux(sound.encode(track))
        container.mux(sound.encode())


def _video_frames(clip: Clip) -> Iterator[VideoFrame]:
    pixels = clip.frames.cpu().numpy()
    height, width = pixels.shape[1:3]
    pixels = np.pad(pixels, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    for index, image in enumerate(pixels):
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        if height >= LEAST_BT709_HEIGHT:
            frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709)
        frame.pts = index
        frame.time_base = 1 / _frame_rate(clip)
        yield frame
