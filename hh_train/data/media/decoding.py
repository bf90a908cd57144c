"""Decoded frames to the ticks of a clip, by their time stamps, and decoding until a clip has all it needs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import av
import cv2
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, ColorTrc, VideoReformatter
from av.video.stream import VideoStream

from hh_train.data.media.dynamic_range import is_high_range, to_standard_range
from hh_train.data.media.interlacing import Deinterlacer
from hh_train.data.media.pictures import MediaError, Pixels, check_size, resize_and_crop
from hh_train.data.media.sound_track import MARGIN_SECONDS, SoundTrack

MAX_GAP_SECONDS = 10.0
"""Where time stamps leap further than this they are broken: the clip ends before the leap."""
_INTERLEAVING_SECONDS = 10.0
_TIE_SECONDS = 1e-6
LEAST_BT709_HEIGHT = 720
"""Pictures of fewer rows are coded in BT.601 where the file says nothing."""
_UNTOLD_COLORSPACE = 2
_REORDERED_FRAMES = 32
"""No codec stores a frame further from its place in time."""


def frame_period(stream: VideoStream) -> float:
    """Seconds from one frame to the next, as far as the file tells; 0 when it tells nothing or nonsense."""
    rate = stream.average_rate or stream.guessed_rate
    period = float(1 / rate) if rate else 0.0
    return period if 0.0 < period <= MAX_GAP_SECONDS else 0.0


def pixel_aspect(stream: VideoStream) -> float:
    """Width of a pixel over its height; 1 when the file says nothing or nonsense."""
    ratio = stream.codec_context.sample_aspect_ratio
    value = float(ratio) if ratio else 1.0
    return value if 0.25 <= value <= 4.0 else 1.0


def upright_size(frame: VideoFrame, aspect: float) -> tuple[int, int]:
    """Height and width of a frame as it is meant to be seen."""
    height, width = frame.height, max(1, round(frame.width * aspect))
    return (width, height) if round(frame.rotation / 90) % 2 else (height, width)


@dataclass(kw_only=True)
class FrameSampler:
    """Takes decoded frames in time order and keeps, for each tick, the one on display half-way to the next tick.

    So what happens in the picture moves against the sound by no more than half a tick, whatever the file's frame rate.
    """

    frames_per_second: float
    stream: VideoStream
    size: tuple[int, int] | None
    """Height and width; None takes those of the first frame."""
    max_frames: int | None
    start_seconds: float | None = None
    """Time stamp of the first tick; None takes that of the first frame."""
    stated_end_seconds: float | None = None
    """Where the file says that its picture ends."""
    frames: list[Pixels] = field(default_factory=list)
    first_seconds: float | None = None
    """Time stamp of the first frame that was added."""
    has_leapt: bool = False
    """Whether the clip was ended by broken time stamps."""
    _damaged: bool = False
    _recent_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=_REORDERED_FRAMES))
    _reformatter: VideoReformatter = field(default_factory=VideoReformatter)
    _last: VideoFrame | None = None
    _last_seconds: float = 0.0
    _last_pixels: Pixels | None = None
    _count: int = 0

    @property
    def is_complete(self) -> bool:
        return self.has_leapt or self._is_full

    @property
    def _is_full(self) -> bool:
        return self.max_frames is not None and len(self.frames) >= self.max_frames

    @property
    def end_seconds(self) -> float:
        return (self.start_seconds or 0.0) + len(self.frames) / self.frames_per_second

    @property
    def limit_seconds(self) -> float:
        """Nothing after this time stamp can belong to the clip."""
        if self.max_frames is None or self.start_seconds is None:
            return float("inf")
        return self.start_seconds + self.max_frames / self.frames_per_second

    @property
    def _period(self) -> float:
        return frame_period(self.stream) or 1 / self.frames_per_second

    def add(self, frame: VideoFrame) -> None:
        """Raises MediaError when frames before this one, inside the clip, could not be decoded."""
        stamped = frame.pts is not None and frame.time is not None
        seconds = frame.time if stamped else (self.first_seconds or 0.0) + self._count * self._period
        if self.start_seconds is None:
            self.start_seconds = seconds
        if self._last is None:
            self.first_seconds = seconds
        elif self._leaps_to(seconds):
            self.has_leapt = True
            return
        elif seconds <= self._last_seconds:
            return
        elif self._damaged and seconds > self.start_seconds:
            raise MediaError(f"is damaged: pictures are lost before {seconds - self.start_seconds:.2f} s")
        else:
            self._fill_until(seconds - 0.5 / self.frames_per_second + _TIE_SECONDS)
        self._damaged = False
        self._recent_seconds.append(seconds)
        self._last, self._last_seconds, self._last_pixels = frame, seconds, None
        self._count += 1

    def add_damage(self) -> None:
        """What could not be decoded. At the end of a file, this is where the clip ends."""
        self._damaged = self._last is not None

    def finish(self) -> None:
        """Adds the frames up to the end of the last one's duration.

        A file that ends early may lack some before its last frames, since they are not stored in the order of time:
        then the clip ends before the first that is missing.
        """
        if self._last is None or self._is_full:
            return
        self._fill_until(self._last_seconds + self._period * 0.999)
        if self.ends_early:
            times = np.array(self._recent_seconds)
            gaps = np.diff(times)
            within = times[1:] > (self.start_seconds or 0.0)
            missing = np.flatnonzero(within & (gaps > 1.5 * np.median(gaps))) if gaps.size else gaps
            if missing.size:
                self.cut(float(times[missing[0]] + gaps.min() / 2))

    @property
    def ends_early(self) -> bool:
        """Whether the file holds less than it says."""
        stated = -float("inf") if self.stated_end_seconds is None else self.stated_end_seconds
        return self._damaged or self._last_seconds + 2 * self._period < stated

    def cut(self, seconds: float) -> None:
        """Drops the frames after a time stamp."""
        count = int((seconds - (self.start_seconds or 0.0)) * self.frames_per_second) + 1
        del self.frames[max(0, count) :]

    def _leaps_to(self, seconds: float) -> bool:
        return abs(seconds - self._last_seconds) > MAX_GAP_SECONDS

    def _fill_until(self, seconds: float) -> None:
        assert self._last is not None
        while not self._is_full and self.end_seconds < seconds:
            if self._last_pixels is None:
                self._last_pixels = self._to_pixels(self._last)
            self.frames.append(self._last_pixels)

    def _to_pixels(self, frame: VideoFrame) -> Pixels:
        """One frame as RGB at the wanted size, turned upright, with square pixels."""
        check_size(frame.width, frame.height)
        pixels = self._to_rgb(frame)
        aspect = pixel_aspect(self.stream)
        if aspect != 1.0:
            wide = (max(1, round(frame.width * aspect)), frame.height)
            pixels = np.asarray(cv2.resize(pixels, wide, interpolation=cv2.INTER_LINEAR), dtype=np.uint8)
        if frame.rotation % 360:
            pixels = np.rot90(pixels, k=round(frame.rotation / 90) % 4)
        if self.size is None:
            self.size = (pixels.shape[0], pixels.shape[1])
        if pixels.shape[:2] == self.size:
            return np.ascontiguousarray(pixels)
        return resize_and_crop(pixels, height=self.size[0], width=self.size[1])

    def _to_rgb(self, frame: VideoFrame) -> Pixels:
        """Where nothing tells how color was coded, large pictures are taken for BT.709, as players do."""
        is_untold = frame.colorspace == _UNTOLD_COLORSPACE and frame.height >= LEAST_BT709_HEIGHT
        source = Colorspace.ITU709 if is_untold else None
        if is_high_range(frame):
            deep = np.asarray(
                self._reformatter.reformat(frame, format="rgb48le", threads=1).to_ndarray(), dtype=np.uint16
            )
            return to_standard_range(deep, is_hlg=frame.color_trc == ColorTrc.ARIB_STD_B67)
        rgb = self._reformatter.reformat(frame, format="rgb24", src_colorspace=source, threads=1)
        return np.asarray(rgb.to_ndarray(), dtype=np.uint8)


def decode(container: InputContainer, picture: FrameSampler, sound: SoundTrack | None) -> None:
    """Feeds both from where the container stands, until the picture is complete and the sound has caught up.

    In a file that ends early the picture is cut to the length of the sound.

    Raises:
        MediaError: something in the middle of the clip cannot be decoded.
    """
    whole = Deinterlacer(picture.stream)
    is_exhausted = _feed(container, picture, sound, whole)
    for frame in whole.finish():
        _add(frame, picture)
    picture.finish()
    if is_exhausted and sound is not None and (sound.ends_early or picture.ends_early):
        picture.cut(sound.end_seconds - 1 / picture.frames_per_second)


def _feed(container: InputContainer, picture: FrameSampler, sound: SoundTrack | None, whole: Deinterlacer) -> bool:
    """Whether the file came to its end."""
    streams: list[VideoStream | AudioStream] = [picture.stream]
    if sound is not None:
        streams.append(sound.stream)
    packets: Iterator[Packet[Any]] = iter(container.demux(streams))
    while True:
        try:
            packet = next(packets, None)
        except av.error.FFmpegError:  # the container ends in rubbish
            packet = None
        if packet is None:
            return True
        if packet.stream is picture.stream:
            _feed_picture(packet, picture, whole)
        elif sound is not None:
            _feed_sound(packet, sound, picture)
        if picture.is_complete and (
            sound is None
            or sound.end_seconds >= picture.end_seconds + MARGIN_SECONDS
            or (packet.stream is picture.stream and _is_far_behind(packet, picture))
        ):
            return False


def _is_far_behind(packet: Packet[Any], picture: FrameSampler) -> bool:
    """Whether the file has gone so far past the clip that no more of its sound will come."""
    if packet.dts is None or packet.time_base is None:
        return False
    return float(packet.dts * packet.time_base) > picture.end_seconds + _INTERLEAVING_SECONDS


def _feed_picture(packet: Packet[VideoStream], picture: FrameSampler, whole: Deinterlacer) -> None:
    if picture.is_complete:
        return
    try:
        frames = packet.decode()
    except av.error.FFmpegError:
        picture.add_damage()
        return
    for frame in frames:
        if frame.is_corrupt:
            picture.add_damage()
            continue
        for ready in whole.add(frame):
            _add(ready, picture)


def _add(frame: VideoFrame, picture: FrameSampler) -> None:
    if not picture.is_complete:
        picture.add(frame)


def _feed_sound(packet: Packet[AudioStream], sound: SoundTrack, picture: FrameSampler) -> None:
    try:
        frames = packet.decode()
    except av.error.FFmpegError:
        sound.add_damage()
        return
    begin = -float("inf") if picture.start_seconds is None else picture.start_seconds
    for frame in frames:
        sound.add(frame, from_seconds=begin, until_seconds=picture.limit_seconds)
