"""Decoded sound to the samples of a clip; time stamps place it."""

from __future__ import annotations

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from numpy.typing import NDArray

from hh_train.data.media.pictures import MediaError

Samples = NDArray[np.float32]

MARGIN_SECONDS = 0.2
"""Kept on both sides of a clip for the resampler to settle in."""
_JITTER_SECONDS = 0.01


class SoundTrack:
    """Collects decoded sound with its time stamps, mixed to mono at the file's own rate."""

    def __init__(self, stream: AudioStream) -> None:
        self.stream = stream
        stream.codec_context.thread_count = 1
        self.end_seconds = 0.0
        self._rate = stream.rate or 0  # where the file does not tell, the first frame does
        self._mixer: av.AudioResampler | None = None
        self._mixes: tuple[str, str, int] | None = None
        self._pieces: list[tuple[float, Samples]] = []
        self._was_heard = False
        self._damaged = False

    def add(self, frame: AudioFrame, *, from_seconds: float, until_seconds: float) -> None:
        """Keeps the sound that may matter between two time stamps.

        Raises:
            MediaError: sound between them, before this frame, could not be decoded.
        """
        self._rate = self._rate or frame.sample_rate
        stamp = self.end_seconds if frame.pts is None or frame.time is None else frame.time
        contiguous = self._was_heard and abs(stamp - self.end_seconds) < _JITTER_SECONDS
        seconds = self.end_seconds if contiguous else stamp  # many containers round stamps to a millisecond
        if self._damaged and self._was_heard and -float("inf") < from_seconds < seconds < until_seconds:
            raise MediaError(f"is damaged: sound is lost before {seconds - from_seconds:.2f} s")
        self._damaged = False
        samples = self._mix(frame)
        self._was_heard = self._was_heard or samples.size > 0
        self.end_seconds = seconds + samples.shape[0] / self._rate
        margin = 2 * MARGIN_SECONDS
        if self.end_seconds > from_seconds - margin and seconds < until_seconds + margin:
            self._pieces.append((seconds, samples))

    @property
    def ends_early(self) -> bool:
        """Whether the file holds less than it says."""
        if not self._was_heard or not self.stream.duration or not self.stream.time_base:
            return False
        stated = float(((self.stream.start_time or 0) + self.stream.duration) * self.stream.time_base)
        return self.end_seconds + MARGIN_SECONDS < stated

    def add_damage(self) -> None:
        """What could not be decoded; before the first sound that can be, it does not matter."""
        self._damaged = True

    def waveform(self, start_seconds: float, num_samples: int, samples_per_second: int) -> Samples | None:
        """The sound from `start_seconds` on, in [-1, 1]; None when the track has no sound at all."""
        if not self._was_heard and not self.stream.frames and not self.stream.duration:
            return None
        if not self._was_heard:
            return np.zeros(num_samples, np.float32)
        margin = MARGIN_SECONDS if self._rate != samples_per_second else 0.0
        lead = round(margin * self._rate)
        buffer = np.zeros(2 * lead - (-num_samples * self._rate // samples_per_second), np.float32)
        for seconds, samples in self._pieces:
            offset = lead + round((seconds - start_seconds) * self._rate)
            first, last = max(0, offset), min(buffer.shape[0], offset + samples.shape[0])
            if first < last:
                buffer[first:last] = samples[first - offset : last - offset]
        sound = buffer if self._rate == samples_per_second else resample(buffer, self._rate, samples_per_second)
        sound = sound[round(margin * samples_per_second) :][:num_samples]
        fitted = np.zeros(num_samples, np.float32)
        fitted[: sound.shape[0]] = np.nan_to_num(sound, nan=0.0, posinf=1.0, neginf=-1.0)
        return fitted.clip(-1, 1)

    def _mix(self, frame: AudioFrame) -> Samples:
        """To mono; the format may change within a track."""
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._mixer is None or kind != self._mixes:
            self._mixer, self._mixes = av.AudioResampler(format="fltp", layout="mono", rate=self._rate), kind
        pieces = [piece.to_ndarray()[0] for piece in self._mixer.resample(frame)]
        return np.concatenate(pieces).astype(np.float32, copy=False) if pieces else np.zeros(0, np.float32)


def resample(samples: Samples, rate: int, wanted_rate: int) -> Samples:
    """[S] at one rate to another, without delay."""
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), format="fltp", layout="mono")
    frame.sample_rate = rate
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=wanted_rate)
    pieces = [piece.to_ndarray()[0] for source in (frame, None) for piece in resampler.resample(source)]
    return np.concatenate(pieces).astype(np.float32, copy=False)
