"""The video codec of Wan 2.2: a causal autoencoder of diffusers, 48 channels at 4x16x16 pixels a latent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from hh_train.tokenizers.referenced import ReferencedTokenizer, by_shape

TIME_STRIDE = 4
"""The autoencoder takes its frames as one and then four at a time, whatever its configuration says."""
BATCH_PIXELS = 1088 * 1920
"""Pixels of a frame of all clips that go through the model together: it works frame by frame, so this bounds memory."""
TILE_OVERLAP = 4
"""Neighboring tiles share this part (1/4) of their length."""


class WanVideoTokenizer(ReferencedTokenizer):
    """Frames to the posterior's mean, normalized by the mean and spread a channel that the model's configuration gives.

    Encoding is deterministic. 4k+1 frames make k+1 latent frames; the first frame is a latent frame of its own.

    Args:
        source: folder or id with a diffusers `AutoencoderKLWan`.
        subfolder: where in the source it lies.
        revision: of an id.
        dtype: float32, bfloat16 or float16.
        tile_pixels: side of the squares in which larger frames are taken, which bounds memory; null takes frames whole.
        device: null is this process's accelerator, or else the CPU.
        content: the hash that the source must have.
    """

    weights_name = "diffusion_pytorch_model.safetensors"

    def __init__(
        self,
        *,
        source: str,
        subfolder: str | None = "vae",
        revision: str | None = None,
        dtype: str = "float32",
        tile_pixels: int | None = None,
        device: str | None = None,
        content: str | None = None,
    ) -> None:
        super().__init__(
            source=source, subfolder=subfolder, revision=revision, dtype=dtype, device=device, content=content
        )
        self.tile_pixels = tile_pixels

    def latent_settings(self) -> dict[str, Any]:
        return {**super().latent_settings(), "tile_pixels": self.tile_pixels}

    @property
    def num_channels(self) -> int:
        return int(self.model_config.get("z_dim", 16))

    @property
    def stride(self) -> tuple[int, int, int]:
        side = int(self.model_config.get("scale_factor_spatial") or 8)
        return TIME_STRIDE, side, side

    def encode(self, frames: UInt8[Tensor, "F H W 3"]) -> Float[Tensor, "C T h w"]:
        """T = (F - 1) / 4 + 1. Raises ValueError unless F = 1 (mod 4) and the strides divide H and W."""
        return self.encode_many([frames])[0]

    @torch.no_grad()
    def encode_many(self, clips: Sequence[UInt8[Tensor, "_ _ _ 3"]]) -> list[Float[Tensor, "_ _ _ _"]]:
        """`encode` of every clip; those of one shape go through the model together, up to a frame of 1080p in all."""
        for frames in clips:
            self._check_frames(frames)
        model = self.model
        mean, spread = self._moments()
        latents: list[Any] = [None] * len(clips)
        for group in _within(by_shape(clips), clips):
            pixels = torch.stack([clips[index] for index in group]).to(self.device).permute(0, 4, 1, 2, 3)
            self._set_tiling(pixels.shape[-2:], pixels_per_unit=int(model.config.patch_size or 1))
            posterior = model.encode(pixels.float().div(127.5).sub(1).to(self.dtype)).latent_dist
            normalized = (posterior.mode().float() - mean) / spread
            for index, latent in zip(group, normalized.cpu(), strict=True):
                latents[index] = latent.clone()
        return latents

    @torch.no_grad()
    def decode(self, latent: Float[Tensor, "C T h w"]) -> UInt8[Tensor, "F H W 3"]:
        """F = 4 (T - 1) + 1."""
        if latent.ndim != 4 or latent.shape[0] != self.num_channels:
            raise ValueError(
                f"got a video latent of shape {tuple(latent.shape)}; wanted [{self.num_channels}, T, h, w]"
            )
        model = self.model
        mean, spread = self._moments()
        scaled = latent.to(self.device).float()[None] * spread + mean
        self._set_tiling((latent.shape[2] * self.stride[1], latent.shape[3] * self.stride[2]), pixels_per_unit=1)
        pixels: Tensor = model.decode(scaled.to(self.dtype)).sample[0].float()
        return pixels.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 3, 0).contiguous().cpu()

    def load_model(self) -> Any:
        from diffusers import AutoencoderKLWan

        model, info = AutoencoderKLWan.from_pretrained(
            str(self.folder), torch_dtype=self.dtype, use_safetensors=True, output_loading_info=True
        )
        self.check_loaded(info)
        return model

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and spread of the channels, each [1, C, 1, 1, 1]."""
        config, found = self.model.config, []
        for name in ("latents_mean", "latents_std"):
            values = torch.tensor(config[name], device=self.device)
            if values.shape != (self.num_channels,):
                raise ValueError(
                    f"{self.folder} gives {values.numel()} values of {name}; wanted {self.num_channels}, one a channel"
                )
            found.append(values.view(1, -1, 1, 1, 1))
        return found[0], found[1]

    def _set_tiling(self, size: Sequence[int], *, pixels_per_unit: int) -> None:
        """The model measures its tiles in pixels when it decodes, but in patches of pixels when it encodes."""
        self.model.use_tiling = self.tile_pixels is not None and max(size) > self.tile_pixels
        if self.tile_pixels is None:
            return
        step = TILE_OVERLAP * self.stride[1]
        if self.tile_pixels % step:
            raise ValueError(f"got tile_pixels {self.tile_pixels}; wanted a multiple of {step}")
        tile = self.tile_pixels // pixels_per_unit
        kept = tile - tile // TILE_OVERLAP
        self.model.tile_sample_min_height = self.model.tile_sample_min_width = tile
        self.model.tile_sample_stride_height = self.model.tile_sample_stride_width = kept

    def _check_frames(self, frames: Tensor) -> None:
        time, height, width = self.stride
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.shape[0] % time != 1:
            raise ValueError(
                f"got frames of shape {tuple(frames.shape)}; wanted [F, H, W, 3] with F a multiple of {time} plus 1: "
                "trim the clip"
            )
        if frames.shape[1] % height or frames.shape[2] % width or not frames.numel():
            raise ValueError(
                f"got frames of {frames.shape[1]}x{frames.shape[2]} pixels; wanted multiples of {height} and {width}: "
                "change the size"
            )


def _within(groups: Sequence[list[int]], clips: Sequence[UInt8[Tensor, "_ _ _ 3"]]) -> Iterator[list[int]]:
    """Groups of clips of one shape, cut to `BATCH_PIXELS`."""
    for group in groups:
        most = max(1, BATCH_PIXELS // (clips[group[0]].shape[1] * clips[group[0]].shape[2]))
        yield from (group[start : start + most] for start in range(0, len(group), most))
