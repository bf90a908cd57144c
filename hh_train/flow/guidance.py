"""Classifier-free guidance, per modality and noise level (arXiv:2207.12598). A scale w of 1 means none."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


def guided(
    conditional: Float[Tensor, "*shape"], unconditional: Float[Tensor, "*shape"], scale: Float[Tensor, "*w"] | float
) -> Float[Tensor, "*shape"]:
    """unconditional + w (conditional - unconditional)."""
    return unconditional + scale * (conditional - unconditional)


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Scales w for video and audio. Below `low_noise_below`, video uses `video_low_noise`, if that is given.

    The released base model: video 5, from 0.5 downwards 2, audio 5.
    """

    video: float = 1.0
    audio: float = 1.0
    video_low_noise: float | None = None
    low_noise_below: float = 0.5

    @property
    def is_none(self) -> bool:
        """Whether the unconditional prediction is never needed."""
        return {self.video, self.audio, self.video_low_noise or self.video} == {1.0}

    def video_scale(self, t: Float[Tensor, "*t"]) -> Float[Tensor, "*t"]:
        """The video's scale at noise level t."""
        low = self.video if self.video_low_noise is None else self.video_low_noise
        return torch.where(t > self.low_noise_below, self.video, low)
