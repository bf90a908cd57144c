"""Plain statistics of pictures, sound and latents: what drifts first when a distilled model departs from its teacher.

None of them is good or bad alone. They are to be compared with the same numbers of the real clips.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float, UInt8
from torch import Tensor

from hh_train.metrics.clip_metric import ClipMetric

_QUIETEST_DB = -100.0
_SILENT_DB = -50.0
_FULL_SCALE = 0.999
_WINDOW_SECONDS = 0.02


@dataclass(frozen=True, kw_only=True)
class ClipStatistics:
    """Numbers of one clip; those of the sound are None without a sound track, those of the latents where unknown."""

    pixel_mean: float
    """Of 0 to 1."""
    pixel_std: float
    """Over all pixels and frames, of 0 to 1."""
    saturation: float
    """Mean of (max - min) / max of the three colors."""
    loudness_db: float | None
    """Root mean square in dB of full scale, -100 at the least."""
    silence_share: float | None
    """Of 20 ms windows below -50 dB of full scale."""
    clipping_share: float | None
    """Of samples at full scale."""
    video_latent_mean: float | None = None
    video_latent_std: float | None = None
    audio_latent_mean: float | None = None
    audio_latent_std: float | None = None


def measure_statistics(
    frames: UInt8[Tensor, "F H W 3"],
    waveform: Float[Tensor, " S"] | None,
    *,
    samples_per_second: int,
    latent_statistics: Mapping[str, Any] | None = None,
) -> ClipStatistics:
    """The statistics of a decoded clip; `latent_statistics` by modality, as a generated clip's json has them."""
    pixels = frames.float() / 255
    brightest, darkest = pixels.amax(dim=-1), pixels.amin(dim=-1)
    saturation = (brightest - darkest) / brightest.clamp(min=1 / 255)
    sound = (None, None, None) if waveform is None or not waveform.numel() else _sound(waveform, samples_per_second)
    latents = {
        f"{modality}_latent_{name}": float(values[name])
        for modality, values in (latent_statistics or {}).items()
        for name in ("mean", "std")
        if modality in ("video", "audio") and values and values.get(name) is not None
    }
    return ClipStatistics(
        pixel_mean=float(pixels.mean()),
        pixel_std=float(pixels.std(correction=0)),
        saturation=float(saturation.mean()),
        loudness_db=sound[0],
        silence_share=sound[1],
        clipping_share=sound[2],
        **latents,
    )


def _sound(waveform: Tensor, samples_per_second: int) -> tuple[float, float, float]:
    power = waveform.double().square()
    size = round(samples_per_second * _WINDOW_SECONDS)
    windows = power[: max(len(power) // size, 1) * size].split(size)
    silent = [_decibels(float(window.mean())) < _SILENT_DB for window in windows]
    clipped = float((waveform.abs() >= _FULL_SCALE).double().mean())
    return _decibels(float(power.mean())), sum(silent) / len(silent), clipped


def _decibels(power: float) -> float:
    return max(10 * math.log10(power), _QUIETEST_DB) if power > 0 else _QUIETEST_DB


class Statistics(ClipMetric):
    """`ClipStatistics`, averaged over clips."""

    names: ClassVar[tuple[str, ...]] = tuple(ClipStatistics.__dataclass_fields__)

    def update(
        self,
        key: str,
        frames: UInt8[Tensor, "F H W 3"],
        waveform: Float[Tensor, " S"] | None,
        *,
        samples_per_second: int,
        latent_statistics: Mapping[str, Any] | None = None,
    ) -> None:
        """Measures a decoded clip and adds it."""
        self.record_measurement(
            key,
            measure_statistics(
                frames, waveform, samples_per_second=samples_per_second, latent_statistics=latent_statistics
            ),
        )

    def record_measurement(self, key: str, statistics: ClipStatistics) -> None:
        """`update` with what is measured already."""
        self.record(key, vars(statistics))
