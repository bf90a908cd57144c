"""Whether lips and sound move together: correlation and offset of mouth opening and loudness.

The sign of an offset: positive, the sound leads (it comes before the picture); in frames. The correlation at lag zero
is the score, and the offset says how far away the best match is. The correlation's maximum over lags is no score: sound
of another clip reaches high values somewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from hh_train.metrics.clip_metric import ClipMetric
from hh_train.metrics.faces.mouth import MouthTrack, track_mouth

STEPS_PER_FRAME = 4
"""Loudness values a frame: offsets are searched on this grid."""
MAX_OFFSET_FRAMES = 8
_RANGE_DECADES = 5.0
_SILENCE_RMS = 1e-3
_STILL_MOUTH = 0.015
_STEADY_SOUND = 0.05
_LEAST_PEAK = 0.35
_LEAST_OVERLAP_FRAMES = 8


@dataclass(frozen=True, kw_only=True)
class SyncMeasurement:
    """Lips against sound of one clip. None where the quantity is undefined, and `reason` says why."""

    zero_lag_correlation: float | None
    offset_frames: float | None
    """Positive: the sound leads. None also where no offset matches (the peak is too low)."""
    peak_correlation: float | None
    """At the best offset; only to judge the offset, never a score."""
    reason: str | None = None

    def is_within(self, frames: float) -> bool | None:
        """Whether lips and sound are in step; a mouth that matches the sound nowhere is not. None where undefined."""
        if self.zero_lag_correlation is None:
            return None
        return self.offset_frames is not None and abs(self.offset_frames) <= frames


def loudness_track(
    waveform: Float[Tensor, " S"], *, samples_per_second: int, frames_per_second: float
) -> Float[Tensor, " steps"]:
    """Logarithm of the sound's power, at 0, 1/4, 2/4 ... frames; at the least 5 decades below the loudest."""
    hop = samples_per_second / frames_per_second / STEPS_PER_FRAME
    count = max(int(waveform.shape[0] / hop), 1)
    power = waveform.double().square()[None, None]
    span = 2 * round(hop) + 1
    kernel = torch.hann_window(span + 2, periodic=False, dtype=torch.float64)[1:-1]
    smooth = functional.conv1d(power, (kernel / kernel.sum())[None, None], padding=span // 2)[0, 0]
    at = (torch.arange(count, dtype=torch.float64) * hop).round().long()
    track = (smooth[at].clamp(min=0) + 1e-12).log10()
    return track.clamp(min=float(track.max()) - _RANGE_DECADES)


def measure_sync(
    opening: Float[Tensor, " F"],
    waveform: Float[Tensor, " S"] | None,
    *,
    samples_per_second: int,
    frames_per_second: float,
) -> SyncMeasurement:
    """Correlates a mouth's opening with the loudness, at the frames' centers and up to 8 frames before and after.

    The best offset is that of the largest Pearson correlation over the overlap; a tie goes to the smaller offset.
    """
    if waveform is None or not waveform.numel() or float(waveform.square().mean().sqrt()) < _SILENCE_RMS:
        return _undefined("there is no sound")
    if float(opening.std()) < _STILL_MOUTH:
        return _undefined("the mouth does not move")
    track = loudness_track(waveform, samples_per_second=samples_per_second, frames_per_second=frames_per_second)
    if float(track.std()) < _STEADY_SOUND:
        return _undefined("the loudness does not change")
    reach = MAX_OFFSET_FRAMES * STEPS_PER_FRAME
    lags = range(-reach, reach + 1)
    found = {lag: _correlation(opening.double(), track, lag) for lag in lags}
    zero_lag = found[0]
    if zero_lag is None:
        return _undefined("the clip is too short")
    best, peak = max(((lag, r) for lag, r in found.items() if r is not None), key=lambda item: (item[1], -abs(item[0])))
    return SyncMeasurement(
        zero_lag_correlation=zero_lag,
        offset_frames=best / STEPS_PER_FRAME if peak >= _LEAST_PEAK else None,
        peak_correlation=peak,
        reason=None if peak >= _LEAST_PEAK else "sound and mouth match at no offset",
    )


def _undefined(reason: str) -> SyncMeasurement:
    return SyncMeasurement(zero_lag_correlation=None, offset_frames=None, peak_correlation=None, reason=reason)


def _correlation(opening: Tensor, track: Tensor, lag: int) -> float | None:
    """Pearson's r of the frames with the sound `lag` steps before their centers; None for fewer than eight frames."""
    frames = torch.arange(opening.shape[0])
    steps = frames * STEPS_PER_FRAME + STEPS_PER_FRAME // 2 - lag
    inside = (steps >= 0) & (steps < track.shape[0])
    if int(inside.sum()) < _LEAST_OVERLAP_FRAMES:
        return None
    x, y = opening[inside], track[steps[inside]]
    x, y = x - x.mean(), y - y.mean()
    norm = float(x.norm() * y.norm())
    return float(x @ y) / norm if norm > 0 else 0.0


def swapped_correlations(
    openings: Sequence[Float[Tensor, " _"]], loudness: Sequence[Float[Tensor, " _"]]
) -> list[float]:
    """Zero-lag correlations of each mouth with the next clip's sound: what chance gives on these clips."""
    values = []
    for i, opening in enumerate(openings):
        other = loudness[(i + 1) % len(loudness)]
        count = min(opening.shape[0], other.shape[0] // STEPS_PER_FRAME)
        r = _correlation(opening[:count].double(), other.double(), 0)
        if len(openings) > 1 and r is not None:
            values.append(r)
    return values


class LipSync(ClipMetric):
    """Share of clips in step within one frame, correlation at lag zero, and distance from step in frames.

    A still mouth or a silent clip is undefined, never a number. The distance is also undefined where nothing matches;
    the share counts that as out of step.
    """

    names: ClassVar[tuple[str, ...]] = ("within_one_frame", "zero_lag_correlation", "absolute_offset_frames")

    def update(
        self,
        key: str,
        frames: UInt8[Tensor, "F H W 3"],
        waveform: Float[Tensor, " S"] | None,
        *,
        samples_per_second: int,
        frames_per_second: float,
    ) -> None:
        """Measures a decoded clip and adds it."""
        mouth: MouthTrack = track_mouth(frames)
        self.record_measurement(
            key,
            measure_sync(
                mouth.opening, waveform, samples_per_second=samples_per_second, frames_per_second=frames_per_second
            ),
        )

    def record_measurement(self, key: str, sync: SyncMeasurement) -> None:
        """`update` with what is measured already."""
        self.record(key, self.values_of(sync))

    @classmethod
    def values_of(cls, sync: SyncMeasurement) -> dict[str, float | None]:
        """The measurement under the metric's names."""
        within = sync.is_within(1.0)
        distance = None if sync.offset_frames is None else abs(sync.offset_frames)
        rows = (None if within is None else float(within), sync.zero_lag_correlation, distance)
        return dict(zip(cls.names, rows, strict=True))
