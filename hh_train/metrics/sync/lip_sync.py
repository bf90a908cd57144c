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
_NEAR_FRAMES = 4
_LOUD_DECADES = 2.5


@dataclass(frozen=True, kw_only=True)
class SyncMeasurement:
    """Lips against sound of one clip. None where the quantity is undefined, and `reason` says why."""

    zero_lag_correlation: float | None
    offset_frames: float | None
    """Positive: the sound leads. None also where no offset matches (the peak is too low)."""
    peak_correlation: float | None
    """At the best offset; only to judge the offset, never a score."""
    reason: str | None = None
    p_value: float | None = None
    """Of the correlation at lag zero, against the sound moved round the clip; None also for clips too short for it."""

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
    reach = round(hop)
    kernel = torch.hann_window(2 * reach + 3, periodic=False, dtype=torch.float64)[1:-1]
    power = functional.pad(waveform.double().square(), (reach, reach))
    at = (torch.arange(count, dtype=torch.float64) * hop).round().long()
    smooth = power[at[:, None] + torch.arange(2 * reach + 1)] @ (kernel / kernel.sum())
    track = (smooth + 1e-12).log10()
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
    reason = why_undefined(opening, waveform)
    if waveform is None or reason is not None:
        return _undefined(reason or "there is no sound")
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
        p_value=circular_p_value(opening, track),
    )


def why_undefined(opening: Float[Tensor, " F"], waveform: Float[Tensor, " S"] | None) -> str | None:
    """Why nothing can be said of the sync of a mouth and a sound; None where something can."""
    if waveform is None or not waveform.numel() or float(waveform.square().mean().sqrt()) < _SILENCE_RMS:
        return "there is no sound"
    if float(opening.std()) < _STILL_MOUTH:
        return "the mouth does not move"
    return None


def circular_p_value(opening: Float[Tensor, " F"], track: Float[Tensor, " steps"]) -> float | None:
    """How often the sound, moved round, correlates with the mouth as well as where it is.

    Moments of speech are not independent, so that shuffling them would find everything significant; moving the sound
    round keeps its rhythm. Only the frames from the first loud one to the last count, since a closed mouth in the
    silence at both ends is what any two clips have in common. All moves on the track's grid count but those of less
    than four frames either way, which are near the sound as it is. The smallest value is one over their number plus
    one; None for fewer than 16 frames.
    """
    count = min(opening.shape[0], track.shape[0] // STEPS_PER_FRAME)
    at_centers = track[STEPS_PER_FRAME // 2 :: STEPS_PER_FRAME][:count]
    loud = torch.nonzero(at_centers > at_centers.max() - _LOUD_DECADES)[:, 0]
    first, last = int(loud[0]), int(loud[-1]) + 1
    frames = last - first
    if frames < 2 * _NEAR_FRAMES + _LEAST_OVERLAP_FRAMES:
        return None
    sound = track[first * STEPS_PER_FRAME : last * STEPS_PER_FRAME].double()
    moves = torch.arange(_NEAR_FRAMES * STEPS_PER_FRAME, (frames - _NEAR_FRAMES) * STEPS_PER_FRAME + 1)
    starts = torch.cat((torch.zeros(1, dtype=torch.int64), moves))[:, None]
    centers = torch.arange(frames) * STEPS_PER_FRAME + STEPS_PER_FRAME // 2
    moved = sound[(starts + centers) % len(sound)]
    mouth = opening[first:last].double()
    mouth, moved = mouth - mouth.mean(), moved - moved.mean(dim=1, keepdim=True)
    found = (moved @ mouth) / (moved.norm(dim=1) * mouth.norm()).clamp(min=1e-12)
    return (1 + int((found[1:] >= found[0]).sum())) / (1 + len(moves))


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
