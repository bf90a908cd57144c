"""A model with guidance as the velocity function that solvers walk."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from hh_train.data.packing import with_unconditional
from hh_train.flow.guidance import Guidance, guided
from hh_train.flow.solvers import State
from hh_train.types import PackedBatch, Prediction

Model = Callable[[PackedBatch], Prediction]


class GuidedVelocity:
    """Guided velocity for the clips of one pack. Tokens with text and without go through the model in one pass."""

    def __init__(
        self, model: Model, batch: PackedBatch, *, guidance: Guidance, null_text: Float[Tensor, "Nt Ct"]
    ) -> None:
        self.model = model
        self.guidance = guidance
        self.batch = batch if guidance.is_none else with_unconditional(batch, null_text)
        self.video_clip = batch.video_clip

    def __call__(self, x: State, t: Float[Tensor, " B"] | float) -> State:
        """Velocity of the state x (video, audio) with every clip at noise level t, or each at its own."""
        video, audio = x
        if self.guidance.is_none:
            prediction = self.model(self.batch.with_latents(video, audio))
            return prediction.video, prediction.audio
        both = self.model(self.batch.with_latents(video.repeat(2, 1), audio.repeat(2, 1)))
        level = torch.as_tensor(t, device=video.device, dtype=torch.float32)
        scale = self.guidance.video_scale(level if level.dim() == 0 else level[self.video_clip][:, None])
        (video_cond, video_null), (audio_cond, audio_null) = both.video.chunk(2), both.audio.chunk(2)
        return guided(video_cond, video_null, scale), guided(audio_cond, audio_null, self.guidance.audio)


def keeping_given(batch: PackedBatch) -> Callable[[State], State]:
    """Restores the pack's given tokens (a clean first frame, a given sound) in a state."""

    def keep(x: State) -> State:
        video = torch.where(batch.video_is_given[:, None], batch.video, x[0])
        audio = torch.where(batch.audio_is_given[:, None], batch.audio, x[1])
        return video, audio

    return keep
