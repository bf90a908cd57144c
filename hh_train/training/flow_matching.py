"""The flow-matching loss of a model on a pack: the teacher's on data, the critic's on what the student generates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hh_train.flow.clip_noise import ClipNoise
from hh_train.flow.losses import ClipSums, squared_error
from hh_train.flow.noise_levels import NoiseLevelDistribution
from hh_train.flow.path import noised, velocity
from hh_train.flow.solvers import State
from hh_train.inference.guided import Model, keeping_given
from hh_train.runtime.distributed import all_reduce_sum, world_size
from hh_train.types import Modality, PackedBatch

GENERATED = (Modality.VIDEO, Modality.AUDIO)


@dataclass(frozen=True)
class NoisedPack:
    """A pack's clean latents, noise and the state between them, each clip at its own noise level [B]."""

    clean: State
    noise: State
    levels: Tensor
    state: State

    @classmethod
    def draw(
        cls, batch: PackedBatch, clean: State, draws: ClipNoise, noise_levels: NoiseLevelDistribution
    ) -> NoisedPack:
        """Given tokens stay clean."""
        levels = draws.levels(noise_levels)
        noise = draws.gaussian()
        state = (
            noised(clean[0], noise[0], levels[batch.video_clip][:, None]),
            noised(clean[1], noise[1], levels[batch.audio_clip][:, None]),
        )
        return cls(clean=clean, noise=noise, levels=levels, state=keeping_given(batch)(state))


def flow_matching_losses(model: Model, batch: PackedBatch, pack: NoisedPack) -> dict[Modality, ClipSums]:
    """Squared velocity error of each modality, summed per clip over tokens not given (Eq. 5, arXiv:2209.03003)."""
    prediction = model(batch.with_latents(*pack.state))
    errors = (
        squared_error(prediction.video, velocity(pack.clean[0], pack.noise[0])),
        squared_error(prediction.audio, velocity(pack.clean[1], pack.noise[1])),
    )
    return sums_per_clip(errors, batch)


def sums_per_clip(values: tuple[Tensor, Tensor], batch: PackedBatch) -> dict[Modality, ClipSums]:
    """Per-token values of video [Nv] and audio [Na], summed per clip over the tokens that are not given."""
    given = (batch.video_is_given, batch.audio_is_given)
    clip = (batch.video_clip, batch.audio_clip)
    return {m: ClipSums.over_tokens(values[m], ~given[m], clip[m], num_clips=batch.num_clips) for m in GENERATED}


def weighted_objective(losses: Mapping[Modality, ClipSums], weights: Mapping[Modality, float]) -> Tensor:
    """Sum over modalities of weight times mean over all tokens of the step, on all ranks together.

    Ranks average their gradients, so each one's share of a global mean is scaled by their number.
    """
    shares = [
        weights[modality] * sums.total.sum() * world_size() / all_reduce_sum(sums.count.sum()).clamp(min=1)
        for modality, sums in losses.items()
    ]
    return torch.stack(shares).sum()


def common_mean_objective(
    losses: Mapping[Modality, ClipSums], weights: Mapping[Modality, float], channels: Sequence[int]
) -> Tensor:
    """Weighted values in one mean over all elements of all modalities: a modality counts by how much of it there is.

    `channels` of each modality; otherwise as `weighted_objective`.
    """
    total = torch.stack([weights[m] * channels[m] * sums.total.sum() for m, sums in losses.items()]).sum()
    count = torch.stack([channels[m] * sums.count.sum() for m, sums in losses.items()]).sum()
    return total * world_size() / all_reduce_sum(count).clamp(min=1)
