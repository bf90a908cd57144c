"""The weight-free video codec: space-time patches on a fitted linear basis, in the geometry of causal video VAEs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from hh_train.tokenizers.linear import LinearBasis
from hh_train.tokenizers.pretrained import PretrainedTokenizer

MAX_FITTED_PATCHES = 256
"""Of one clip; more tell the basis nothing new."""


class PatchVideoTokenizer(PretrainedTokenizer):
    """Patches of `stride` pixels (time, height, width) to `channels` principal components, on pixels in [-1, 1].

    4k+1 frames make k+1 latent frames at a temporal stride of 4: the first latent frame sees the first frame alone,
    repeated over its patch, and decodes to one frame, the mean over the patch.

    Args:
        channels: principal components that are kept.
        stride: pixels per latent along time, height and width.
        whitening: see `LinearBasis`.
        motion_weight: how much a change within a patch's time counts beside its mean over time when the components are
            chosen. Little of a picture moves; with 1, the lips are blurred for the sake of the background.
    """

    def __init__(
        self,
        *,
        channels: int = 48,
        stride: Sequence[int] = (4, 8, 8),
        whitening: float = 0.5,
        motion_weight: float = 2.0,
    ) -> None:
        super().__init__()
        if motion_weight <= 0:
            raise ValueError(f"got motion_weight {motion_weight}; wanted a positive number")
        self.motion_weight = motion_weight
        if len(stride) != 3 or min(stride) < 1:
            raise ValueError(f"got stride {tuple(stride)}; wanted three positive numbers: time, height, width")
        self._stride = (int(stride[0]), int(stride[1]), int(stride[2]))
        self.basis = LinearBasis(num_features=3 * prod(self._stride), num_channels=channels, whitening=whitening)

    def settings(self) -> dict[str, Any]:
        return {
            "channels": self.num_channels,
            "stride": list(self._stride),
            "whitening": self.basis.whitening,
            "motion_weight": self.motion_weight,
        }

    def check_fitted(self) -> None:
        if not self.is_fitted:
            raise ValueError(
                "the video tokenizer has no basis yet: call fit with training frames, or read one by from_pretrained"
            )

    @property
    def is_fitted(self) -> bool:
        return self.basis.is_fitted

    @property
    def num_channels(self) -> int:
        return self.basis.num_channels

    @property
    def stride(self) -> tuple[int, int, int]:
        return self._stride

    def fit(self, clips: Iterable[UInt8[Tensor, "_ _ _ 3"]]) -> None:
        """Fits the basis to patches spread evenly over all clips, in one pass. Raises ValueError without clips."""
        self.basis.fit(_thinned(self._to_patches(frames).flatten(0, 2)) for frames in clips)

    @torch.no_grad()
    def encode(self, frames: UInt8[Tensor, "F H W 3"]) -> Float[Tensor, "C T h w"]:
        """Raises ValueError unless F = 1 (mod temporal stride) and the strides divide H and W."""
        self.check_fitted()
        latents: Tensor = self.basis.encode(self._to_patches(frames))
        return latents.permute(3, 0, 1, 2).contiguous()

    @torch.no_grad()
    def decode(self, latent: Float[Tensor, "C T h w"]) -> UInt8[Tensor, "F H W 3"]:
        self.check_fitted()
        if latent.ndim != 4 or latent.shape[0] != self.num_channels:
            raise ValueError(
                f"got a video latent of shape {tuple(latent.shape)}; wanted [{self.num_channels}, T, h, w]"
            )
        time, height, width = self._stride
        patches: Tensor = self.basis.decode(latent.permute(1, 2, 3, 0).float())
        patches = self._scale_motion(patches, 1 / self.motion_weight)
        rows, columns = patches.shape[1:3]
        pixels = patches.reshape(-1, rows, columns, time, height, width, 3).permute(0, 3, 1, 4, 2, 5, 6)
        pixels = pixels.reshape(-1, time, rows * height, columns * width, 3)
        frames = torch.cat([pixels[0].mean(0, keepdim=True), pixels[1:].flatten(0, 1)])
        return frames.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)

    def _scale_motion(self, patches: Tensor, factor: float) -> Tensor:
        """[..., D]: multiplies what differs from the mean over a patch's time."""
        split = patches.reshape(*patches.shape[:-1], self._stride[0], -1)
        return torch.lerp(split.mean(-2, keepdim=True), split, factor).reshape(patches.shape)

    def _to_patches(self, frames: Tensor) -> Tensor:
        """[F, H, W, 3] in 0..255 to [T, h, w, D] in -1..1, motion weighted."""
        time, height, width = self._stride
        if frames.ndim != 4 or frames.shape[0] % time != 1 % time:
            raise ValueError(
                f"got frames of shape {tuple(frames.shape)}; wanted [F, H, W, 3] with F a multiple of {time} plus 1: "
                "trim the clip"
            )
        if frames.shape[1] % height or frames.shape[2] % width:
            raise ValueError(
                f"got frames of {frames.shape[1]}x{frames.shape[2]} pixels; wanted multiples of {height} and {width}: "
                "change the size"
            )
        pixels = torch.cat([frames[:1].expand(time, -1, -1, -1), frames[1:]]).to(torch.float32).div(127.5).sub(1)
        rows, columns = frames.shape[1] // height, frames.shape[2] // width
        patches = pixels.reshape(-1, time, rows, height, columns, width, 3)
        return self._scale_motion(patches.permute(0, 2, 4, 1, 3, 5, 6).flatten(3), self.motion_weight)


def _thinned(patches: Tensor) -> Tensor:
    order = torch.randperm(patches.shape[0], generator=torch.Generator().manual_seed(0))
    return patches[order[:MAX_FITTED_PATCHES]]
