"""Noise of a clip and a step, not of a process: the same in any batch, on any number of ranks, after any resume."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from hh_train.flow.noise_levels import NoiseLevelDistribution
from hh_train.runtime.seeds import derived_seed
from hh_train.types import PackedBatch


class ClipNoise:
    """Draws for each clip of a pack from one stream per (seed, purpose, step, clip key)."""

    def __init__(self, batch: PackedBatch, *, seed: int, purpose: str, step: int = 0) -> None:
        self.batch = batch
        self.generators = [torch.Generator().manual_seed(derived_seed(seed, purpose, step, key)) for key in batch.keys]

    def levels(self, distribution: NoiseLevelDistribution) -> Float[Tensor, " B"]:
        """One noise level per clip."""
        drawn = [distribution.sample(1, generator) for generator in self.generators]
        return torch.cat(drawn).to(self.batch.video.device)

    def gaussian(self) -> tuple[Float[Tensor, "Nv Cv"], Float[Tensor, "Na Ca"]]:
        """Standard normal video and audio tokens; every call draws anew."""
        video, audio = [], []
        for layout, generator in zip(self.batch.layouts, self.generators, strict=True):
            video.append(torch.randn(layout.num_video, self.batch.video.shape[1], generator=generator))
            audio.append(torch.randn(layout.audio, self.batch.audio.shape[1], generator=generator))
        return torch.cat(video).to(self.batch.video), torch.cat(audio).to(self.batch.audio)
