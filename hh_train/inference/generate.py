"""From prompts to clips: noise, a guided walk to clean latents, and the codecs' decoders."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hh_train.data.packing import pack, unpack
from hh_train.flow.clip_noise import ClipNoise
from hh_train.flow.guidance import Guidance
from hh_train.flow.solvers import Solver
from hh_train.inference.guided import GuidedVelocity, keeping_given
from hh_train.model.transformer import SandwichTransformer
from hh_train.tokenizers import Tokenizers
from hh_train.types import Clip, LatentClip


@dataclass(frozen=True, kw_only=True)
class GeneratedClip:
    """A generated clip with its latents and what it took."""

    key: str
    clip: Clip
    video: Float[Tensor, "C T h w"] | None
    audio: Float[Tensor, "L Ca"] | None
    seconds: float
    """Wall time of the walk and the decoding, divided among the clips of one pack."""
    num_evaluations: int
    """Passes of this clip through the model: two a step with guidance."""


@dataclass(frozen=True, kw_only=True)
class ClipGenerator:
    """A model with everything that it needs to make clips.

    A clip depends on its key, its prompt, its size and the seed; not on what it is packed with.
    """

    model: SandwichTransformer
    solver: Solver
    guidance: Guidance
    tokenizers: Tokenizers
    frames_per_second: float

    def request(self, key: str, prompt: str, *, num_frames: int, size: tuple[int, int]) -> LatentClip:
        """An empty clip to be generated: `size` is (height, width) in pixels.

        Raises ValueError when the frames or the size do not fit the video codec and the model's patch.
        """
        video, audio = self.tokenizers.video, self.tokenizers.audio
        time_stride, *space_strides = video.stride
        steps = [stride * patch for stride, patch in zip(space_strides, self.model.config.patch[1:], strict=True)]
        if num_frames % time_stride != 1 or any(s % step or s < step for s, step in zip(size, steps, strict=True)):
            raise ValueError(
                f"cannot generate {num_frames} frames of {size[0]}x{size[1]} (height x width): "
                f"want {time_stride}k+1 frames, a height that {steps[0]} divides and a width that {steps[1]} divides"
            )
        latent_size = (size[0] // space_strides[0], size[1] // space_strides[1])
        num_latents = (num_frames - 1) // time_stride + 1
        num_sounds = round(num_frames / self.frames_per_second * audio.latents_per_second)
        return LatentClip(
            key=key,
            video=torch.zeros(video.num_channels, num_latents, *latent_size),
            audio=torch.zeros(num_sounds, audio.num_channels),
            text=self.tokenizers.text.encode(prompt),
        )

    @torch.inference_mode()
    def generate(
        self, requests: Sequence[LatentClip], *, seed: int, on_step: Callable[[], None] | None = None
    ) -> list[GeneratedClip]:
        """Generates the requests in one pack. Given frames and a given sound are kept as they are."""
        start = time.perf_counter()
        device = next(self.model.parameters()).device
        batch = pack(requests, patch=self.model.config.patch).to(device)
        null_text = self.tokenizers.text.encode(self.tokenizers.text.null_prompt)
        velocity = GuidedVelocity(self.model, batch, guidance=self.guidance, null_text=null_text)
        draws = ClipNoise(batch, seed=seed, purpose="generate")
        state = self.solver(velocity, draws.gaussian, keep=keeping_given(batch), on_step=on_step)
        latents = unpack(batch.with_latents(*state).to("cpu"), patch=self.model.config.patch)
        clips = [self.decode(video, audio) for video, audio in latents]
        seconds = (time.perf_counter() - start) / len(requests)
        return [
            GeneratedClip(
                key=request.key,
                clip=clip,
                video=video,
                audio=audio,
                seconds=seconds,
                num_evaluations=self.solver.num_steps * (1 if self.guidance.is_none else 2),
            )
            for request, clip, (video, audio) in zip(requests, clips, latents, strict=True)
        ]

    def decode(self, video: Float[Tensor, "C T h w"] | None, audio: Float[Tensor, "L Ca"] | None) -> Clip:
        """Latents to media. Raises ValueError for a clip without pictures."""
        if video is None:
            raise ValueError(
                "a clip without video latents cannot be shown: generate with a size and a number of frames"
            )
        return Clip(
            frames=self.tokenizers.video.decode(video),
            frames_per_second=self.frames_per_second,
            waveform=None if audio is None else self.tokenizers.audio.decode(audio),
            samples_per_second=self.tokenizers.audio.samples_per_second,
        )
