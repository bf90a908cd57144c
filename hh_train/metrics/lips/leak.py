"""Lips that move while nothing is heard.

A model that draws speech without hearing it moves the mouth through the pauses. The measure needs no reference: it is
the share of the silence in which the mouth moves. A mouth opens before its first sound and closes after its last, so
that frames near sound are left out. After KeySync's "LipLeak" (Bigata et al., 2025), which feeds silence to a model
that is driven by sound; here the clip's own pauses, or a clip that is silent as a whole, take its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from hh_train.metrics.clip_metric import ClipMetric, Row

_SILENCE_RMS = 1e-3
_QUIET_SHARE = 0.03
"""30 dB below the loudest frame."""
_NEAR_SOUND_SECONDS = 0.2
"""Lips move up to 0.1 s before and after their sound, and the windows below reach as far again."""
_LEAST_FRAMES = 4
_WINDOW = 2
_MOVING = 0.015
"""Deviation of the opening over five frames; `lip_sync` calls a mouth still below the same."""


@dataclass(frozen=True, kw_only=True)
class LeakMeasurement:
    """Motion of one clip's mouth under silence."""

    silent_frames: int
    """Frames that are no nearer to sound than 0.2 s."""
    moving_frames: int
    """Those of them in which the mouth moves."""
    reason: str | None = None
    """Why the share is undefined; None where it is defined."""

    @property
    def row(self) -> Row | None:
        """Moving frames over silent frames; None where that is undefined."""
        return None if self.reason else Row(float(self.moving_frames), float(self.silent_frames))


def measure_leak(
    opening: Float[Tensor, " F"],
    waveform: Float[Tensor, " S"] | None,
    *,
    samples_per_second: int,
    frames_per_second: float,
) -> LeakMeasurement:
    """Counts the frames of silence and those of them in which the mouth moves.

    Args:
        opening: of the mouth in each frame; 0 to 1.
        waveform: mono sound; None without a sound track, for which nothing is known.
        samples_per_second: of the sound.
        frames_per_second: of the picture.
    """
    if waveform is None:
        return LeakMeasurement(silent_frames=0, moving_frames=0, reason="there is no sound track")
    silent = silent_frames(
        waveform,
        num_frames=opening.shape[0],
        samples_per_second=samples_per_second,
        frames_per_second=frames_per_second,
    )
    count = int(silent.sum())
    if count < _LEAST_FRAMES:
        reason = f"{count} frames of silence, fewer than {_LEAST_FRAMES}"
        return LeakMeasurement(silent_frames=count, moving_frames=0, reason=reason)
    windows = functional.pad(opening.double()[None, None], (_WINDOW, _WINDOW), mode="replicate")[0, 0]
    moves = windows.unfold(0, 2 * _WINDOW + 1, 1).std(dim=1, correction=0) > _MOVING
    return LeakMeasurement(silent_frames=count, moving_frames=int((moves & silent).sum()))


def silent_frames(
    waveform: Float[Tensor, " S"], *, num_frames: int, samples_per_second: int, frames_per_second: float
) -> Bool[Tensor, " {num_frames}"]:
    """Frames without sound within 0.2 s: their sound is below -60 dB, or 30 dB below the loudest frame's."""
    edges = (torch.arange(num_frames + 1, dtype=torch.float64) * samples_per_second / frames_per_second).round().long()
    power = functional.pad(waveform.double().square(), (1, max(int(edges[-1]) - waveform.shape[0], 0))).cumsum(0)
    loudness = ((power[edges[1:]] - power[edges[:-1]]) / (edges[1:] - edges[:-1])).clamp(min=0).sqrt()
    heard = loudness >= max(_SILENCE_RMS, _QUIET_SHARE * float(loudness.max()))
    reach = round(_NEAR_SOUND_SECONDS * frames_per_second)
    near = functional.max_pool1d(heard.double()[None, None], 2 * reach + 1, stride=1, padding=reach)[0, 0]
    return near == 0


class LipLeak(ClipMetric):
    """Share of the silence, over the frames of all clips, in which the mouth moves.

    Clips with fewer than four silent frames, without a sound track, or without a face are undefined.
    """

    names: ClassVar[tuple[str, ...]] = ("lip_leak",)
    higher_is_better = False

    def update(
        self,
        key: str,
        opening: Float[Tensor, " F"],
        waveform: Float[Tensor, " S"] | None,
        *,
        samples_per_second: int,
        frames_per_second: float,
    ) -> None:
        """Measures a clip's mouth and adds it."""
        leak = measure_leak(
            opening, waveform, samples_per_second=samples_per_second, frames_per_second=frames_per_second
        )
        self.record(key, {"lip_leak": leak.row})
