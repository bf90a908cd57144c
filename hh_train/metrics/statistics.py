"""Plain statistics of pictures and latents: what drifts first when a distilled model departs from its teacher.

None of them is good or bad alone. They are to be compared with the same numbers of the real clips.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import UInt8
from torch import Tensor

from hh_train.metrics.clip_metric import ClipMetric
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurer import Measured, Sample


@dataclass(frozen=True, kw_only=True)
class PictureStatistics:
    """Numbers of one clip's pixels."""

    pixel_mean: float
    """Of 0 to 1."""
    pixel_std: float
    """Over all pixels and frames, of 0 to 1."""
    saturation: float
    """Mean of (max - min) / max of the three colors."""


def measure_pictures(frames: UInt8[Tensor, "F H W 3"]) -> PictureStatistics:
    """The statistics of decoded frames."""
    pixels = frames.float() / 255
    brightest, darkest = pixels.amax(dim=-1), pixels.amin(dim=-1)
    saturation = (brightest - darkest) / brightest.clamp(min=1 / 255)
    return PictureStatistics(
        pixel_mean=float(pixels.mean()),
        pixel_std=float(pixels.std(correction=0)),
        saturation=float(saturation.mean()),
    )


def known_latents(statistics: Mapping[str, Any] | None) -> dict[str, float | None]:
    """`video_latent_mean` and so on from what `generate` wrote beside a clip; None where that is unknown."""
    known: dict[str, float | None] = {}
    for modality in ("video", "audio"):
        written = (statistics or {}).get(modality) or {}
        for name in ("mean", "std"):
            value = written.get(name)
            known[f"{modality}_latent_{name}"] = None if value is None else float(value)
    return known


class Statistics(ClipMetric):
    """`PictureStatistics` and `known_latents`, averaged over clips."""

    names: ClassVar[tuple[str, ...]] = (*PictureStatistics.__dataclass_fields__, *known_latents(None))

    def update(
        self, key: str, frames: UInt8[Tensor, "F H W 3"], *, latent_statistics: Mapping[str, Any] | None = None
    ) -> None:
        """Measures a decoded clip and adds it."""
        self.record(key, vars(measure_pictures(frames)) | known_latents(latent_statistics))


class PictureMeasurer:
    """`Statistics` as a measurer."""

    measures: ClassVar[tuple[Measure, ...]] = (
        Measure(name="pixel_mean", title="pixel mean", digits=3),
        Measure(name="pixel_std", title="pixel spread", digits=3),
        Measure(name="saturation", title="saturation", digits=3),
        Measure(name="video_latent_mean", title="video latents: mean", digits=3),
        Measure(name="video_latent_std", title="video latents: spread", digits=3),
        Measure(name="audio_latent_mean", title="audio latents: mean", digits=3),
        Measure(name="audio_latent_std", title="audio latents: spread", digits=3),
    )

    def protocol(self) -> Mapping[str, str]:
        """Nothing beside the code: the numbers are plain arithmetic."""
        return {}

    def measure(self, sample: Sample) -> Measured:
        """Measures one clip's pixels, and takes the statistics of its latents from its json, where that has them."""
        written = sample.fields.get("latent_statistics")
        return Measured(values=vars(measure_pictures(sample.clip.frames)) | (known_latents(written) if written else {}))
