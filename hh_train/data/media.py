"""Media files to clips and back, through PyAV. Picture and sound keep their timing, since time stamps place both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from hh_train.types import Clip

Pixels = NDArray[np.uint8]
Samples = NDArray[np.float32]


class MediaError(ValueError):
    """A file that cannot be read as a clip; the message is the reason."""


@dataclass(frozen=True, kw_only=True)
class MediaReader:
    """Reads media files as clips of one frame rate, sample rate and, if wanted, size.

    Frames are the nearest in time at the wanted rate. With a size, the picture is cropped about its center to the
    wanted proportions, then scaled. The clip starts with the first frame; sound before it is cut, and what is missing
    after it is silence.
    """

    frames_per_second: float = 25.0
    samples_per_second: int = 16_000
    size: tuple[int, int] | None = None
    """Height and width in pixels; None keeps the file's."""
    frame_multiple: int = 4
    """Clips are cut to k * frame_multiple + 1 frames."""
    min_frames: int = 5
    max_frames: int | None = None

    def read(self, path: str | Path) -> Clip:
        """Decodes the file from its start. A file without a sound track gives a clip without waveform.

        Raises:
            MediaError: the file is missing, no video, damaged, or too short.
        """
        try:
            with av.open(str(path), "r") as container:
                return self._read(container)
        except av.error.FFmpegError as error:
            raise MediaError(f"cannot be read as media: {error.strerror or error}") from error

    def _read(self, container: InputContainer) -> Clip:
        if not container.streams.video:
            raise MediaError("has no picture: wanted a video stream")
        video = container.streams.video[0]
        video.codec_context.thread_count = 1
        sound = _SoundTrack(container.streams.audio[0]) if container.streams.audio else None
        picture = _FrameSampler(reader=self, stream=video)
        streams: list[VideoStream | AudioStream] = [video]
        if sound is not None:
            streams.append(sound.stream)
        for packet in container.demux(streams):
            for frame in packet.decode():
                if isinstance(frame, VideoFrame) and not picture.is_full:
                    picture.add(frame)
                elif isinstance(frame, AudioFrame) and sound is not None:
                    sound.add(frame)
            if picture.is_full and (sound is None or sound.end_seconds >= picture.end_seconds):
                break
        frames = picture.finish()
        count = self._usable(len(frames))
        waveform = None
        if sound is not None:
            num_samples = round(count * self.samples_per_second / self.frames_per_second)
            waveform = sound.waveform(picture.start_seconds, num_samples, self.samples_per_second)
        return Clip(
            frames=torch.from_numpy(np.stack(frames[:count])),
            frames_per_second=self.frames_per_second,
            waveform=None if waveform is None else torch.from_numpy(waveform),
            samples_per_second=self.samples_per_second,
        )

    def _usable(self, num_frames: int) -> int:
        """The frames to keep of those there are."""
        if num_frames < self.min_frames:
            raise MediaError(
                f"is too short: {num_frames} frames at {self.frames_per_second:g} a second, "
                f"wanted {self.min_frames} at the least"
            )
        limit = num_frames if self.max_frames is None else min(num_frames, self.max_frames)
        return (limit - 1) // self.frame_multiple * self.frame_multiple + 1


def resize_and_crop(pixels: Pixels, *, height: int, width: int) -> Pixels:
    """The largest central part of [H, W, 3] with the proportions of the wanted size, scaled to it."""
    rows, columns = pixels.shape[:2]
    scale = min(rows / height, columns / width)
    kept_rows, kept_columns = min(rows, round(height * scale)), min(columns, round(width * scale))
    top, left = (rows - kept_rows) // 2, (columns - kept_columns) // 2
    part = np.ascontiguousarray(pixels[top : top + kept_rows, left : left + kept_columns])
    method = cv2.INTER_AREA if scale >= 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(part, (width, height), interpolation=method), dtype=np.uint8)


@dataclass(kw_only=True)
class _FrameSampler:
    """Takes decoded frames in time order and keeps, for each tick of the wanted rate, the one nearest in time."""

    reader: MediaReader
    stream: VideoStream
    frames: list[Pixels] = field(default_factory=list)
    start_seconds: float = 0.0
    _reformatter: VideoReformatter = field(default_factory=VideoReformatter)
    _last: VideoFrame | None = None
    _last_seconds: float = 0.0
    _last_pixels: Pixels | None = None
    _count: int = 0

    @property
    def is_full(self) -> bool:
        return self.reader.max_frames is not None and len(self.frames) >= self.reader.max_frames

    @property
    def end_seconds(self) -> float:
        return self.start_seconds + len(self.frames) / self.reader.frames_per_second

    @property
    def _source_period(self) -> float:
        rate = self.stream.average_rate or self.stream.guessed_rate
        return float(1 / rate) if rate else 1 / self.reader.frames_per_second

    def add(self, frame: VideoFrame) -> None:
        stamped = frame.pts is not None and frame.time is not None
        seconds = frame.time if stamped else self.start_seconds + self._count * self._source_period
        if self._last is None:
            self.start_seconds = seconds
        else:
            self._fill_until((self._last_seconds + seconds) / 2)
        self._last, self._last_seconds, self._last_pixels = frame, seconds, None
        self._count += 1

    def finish(self) -> list[Pixels]:
        """The frames up to the end of the last one's duration."""
        if self._last is not None:
            self._fill_until(self._last_seconds + self._source_period * 0.999)
        return self.frames

    def _fill_until(self, seconds: float) -> None:
        assert self._last is not None
        while not self.is_full and self.end_seconds < seconds:
            if self._last_pixels is None:
                self._last_pixels = self._to_pixels(self._last)
            self.frames.append(self._last_pixels)

    def _to_pixels(self, frame: VideoFrame) -> Pixels:
        """One frame as RGB at the wanted size, turned upright."""
        pixels = np.asarray(self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray(), dtype=np.uint8)
        if frame.rotation % 360:
            pixels = np.rot90(pixels, k=round(frame.rotation / 90) % 4)
        size = self.reader.size
        if size is None or pixels.shape[:2] == size:
            return np.ascontiguousarray(pixels)
        return resize_and_crop(pixels, height=size[0], width=size[1])


class _SoundTrack:
    """Collects decoded sound with its time stamps, mixed to mono at the file's own rate."""

    def __init__(self, stream: AudioStream) -> None:
        self.stream = stream
        stream.codec_context.thread_count = 1
        self.end_seconds = 0.0
        self._rate = stream.rate
        self._mixer = av.AudioResampler(format="fltp", layout="mono", rate=stream.rate)
        self._pieces: list[tuple[float, Samples]] = []

    def add(self, frame: AudioFrame) -> None:
        seconds = self.end_seconds if frame.pts is None or frame.time is None else frame.time
        mixed = [piece.to_ndarray()[0] for piece in self._mixer.resample(frame)]
        samples = np.concatenate(mixed).astype(np.float32, copy=False) if mixed else np.zeros(0, np.float32)
        self._pieces.append((seconds, samples))
        self.end_seconds = seconds + samples.shape[0] / self._rate

    def waveform(self, start_seconds: float, num_samples: int, samples_per_second: int) -> Samples | None:
        """The sound from `start_seconds` on, in [-1, 1]; None when the track has no sound at all."""
        if not any(samples.size for _, samples in self._pieces):
            return None
        buffer = np.zeros(-(-num_samples * self._rate // samples_per_second), np.float32)
        for seconds, samples in self._pieces:
            offset = round((seconds - start_seconds) * self._rate)
            first, last = max(0, offset), min(buffer.shape[0], offset + samples.shape[0])
            if first < last:
                buffer[first:last] = samples[first - offset : last - offset]
        sound = buffer if self._rate == samples_per_second else resample(buffer, self._rate, samples_per_second)
        fitted = np.zeros(num_samples, np.float32)
        fitted[: sound.shape[0]] = sound[:num_samples]
        return fitted.clip(-1, 1)


def resample(samples: Samples, rate: int, wanted_rate: int) -> Samples:
    """[S] at one rate to another, without delay."""
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=wanted_rate)
    pieces = [piece.to_ndarray()[0] for source in (frame, None) for piece in resampler.resample(source)]
    return np.concatenate(pieces).astype(np.float32, copy=False)


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
        frame.pts = index
        frame.time_base = 1 / _frame_rate(clip)
        yield frame
