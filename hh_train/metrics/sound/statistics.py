"""Plain numbers of a clip's sound: loudness, silence, clipping.

None of them is good or bad alone. They are to be compared with the same numbers of the real clips.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hh_train.metrics.clip_metric import ClipMetric

_QUIETEST_DB = -100.0
_SILENT_DB = -50.0
_FULL_SCALE = 0.999
_WINDOW_SECONDS = 0.02
_LOUDNESS_BLOCK_SECONDS = 0.4


@dataclass(frozen=True, kw_only=True)
class SoundStatistics:
    """Numbers of one clip's sound."""

    loudness_db: float
    """Root mean square in dB of full scale, -100 at the least."""
    lufs: float | None
    """Integrated loudness as one hears it; None for less than 0.4 s, and below -70 LUFS, where the measure ends."""
    silence_share: float
    """Of 20 ms windows below -50 dB of full scale."""
    clipping_share: float
    """Of samples at full scale."""


def measure_sound(waveform: Float[Tensor, " S"], *, samples_per_second: int) -> SoundStatistics:
    """The statistics of mono sound in [-1, 1].

    Raises:
        ValueError: there are no samples, or some are not finite.
    """
    if not waveform.numel():
        raise ValueError("got no samples of sound")
    if not bool(torch.isfinite(waveform).all()):
        raise ValueError("the sound has samples that are not finite")
    power = waveform.double().square()
    size = round(samples_per_second * _WINDOW_SECONDS)
    windows = power[: max(len(power) // size, 1) * size].split(size)
    silent = [_decibels(float(window.mean())) < _SILENT_DB for window in windows]
    return SoundStatistics(
        loudness_db=_decibels(float(power.mean())),
        lufs=integrated_loudness(waveform, samples_per_second=samples_per_second),
        silence_share=sum(silent) / len(silent),
        clipping_share=float((waveform.abs() >= _FULL_SCALE).double().mean()),
    )


def integrated_loudness(waveform: Float[Tensor, " S"], *, samples_per_second: int) -> float | None:
    """Gated loudness in LUFS of mono sound (ITU-R BS.1770-4); None where it is not defined."""
    import pyloudnorm  # type: ignore[import-untyped]

    if waveform.shape[0] < math.ceil(_LOUDNESS_BLOCK_SECONDS * samples_per_second):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of no block, where all is silent
        loudness = float(pyloudnorm.Meter(samples_per_second).integrated_loudness(waveform.double().numpy()))
    return loudness if math.isfinite(loudness) else None


def _decibels(power: float) -> float:
    return max(10 * math.log10(power), _QUIETEST_DB) if power > 0 else _QUIETEST_DB


class Sound(ClipMetric):
    """`SoundStatistics`, averaged over clips."""

    names: ClassVar[tuple[str, ...]] = tuple(SoundStatistics.__dataclass_fields__)

    def update(self, key: str, waveform: Float[Tensor, " S"], *, samples_per_second: int) -> None:
        """Measures a clip's sound and adds it."""
        self.record(key, vars(measure_sound(waveform, samples_per_second=samples_per_second)))
