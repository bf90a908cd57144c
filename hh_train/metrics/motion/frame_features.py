"""Frames to feature vectors, by networks given by path: what consistency over time is measured with.

Frames are prepared as VBench (Huang et al., CVPR 2024) prepares them for each network: eight-bit pictures scaled
without antialiasing, then centered by the network's own statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from hh_train.metrics.networks import file_fingerprint, load_torchscript, load_transformers, weights_fingerprint

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@runtime_checkable
class FrameFeatures(Protocol):
    """One vector a frame."""

    def features(self, frames: UInt8[Tensor, "F H W 3"]) -> Float[Tensor, "F D"]:
        """Of every frame."""
        ...

    def fingerprint(self) -> str:
        """Changes with the weights and with how frames are prepared."""
        ...


def prepare_frames(
    frames: UInt8[Tensor, "F H W 3"],
    *,
    size: int,
    crop: bool,
    mode: Literal["bilinear", "bicubic"],
    mean: Sequence[float],
    std: Sequence[float],
) -> Float[Tensor, "F 3 h w"]:
    """Scales the short side to `size` in whole gray levels, cuts out the middle square if wanted, and normalizes."""
    pixels = frames.permute(0, 3, 1, 2).float()
    height, width = pixels.shape[-2:]
    short = min(height, width)
    target = (size * height // short, size * width // short)
    if (height, width) != target:
        pixels = functional.interpolate(pixels, size=target, mode=mode, align_corners=False, antialias=False)
        pixels = pixels.round().clamp(0, 255)
    if crop:
        top, left = round((target[0] - size) / 2), round((target[1] - size) / 2)
        pixels = pixels[..., top : top + size, left : left + size]
    center, spread = (torch.tensor(values, device=frames.device)[:, None, None] for values in (mean, std))
    return (pixels / 255 - center) / spread


class _InBatches:
    """Runs `_embed` over a few frames at a time, on its device."""

    device: str
    batch_size: int

    @torch.no_grad()
    def features(self, frames: UInt8[Tensor, "F H W 3"]) -> Float[Tensor, "F D"]:
        """One vector a frame, in fp32 on the CPU."""
        parts = [self._embed(part.to(self.device)) for part in frames.split(self.batch_size)]
        return torch.cat(parts).float().cpu()

    def _embed(self, frames: UInt8[Tensor, "n H W 3"]) -> Float[Tensor, "n D"]:
        raise NotImplementedError


class DinoFeatures(_InBatches):
    """The class token of a DINO vision transformer: VBench's subject consistency takes ViT-B/16.

    Args:
        model: folder or id that transformers opens as a `ViTModel`, such as `facebook/dino-vitb16`.
        size: short side in pixels that frames are scaled to; what is longer stays.
        batch_size: frames at a time.
        device: of the network.
    """

    def __init__(self, *, model: str, size: int = 224, batch_size: int = 16, device: str = "cpu") -> None:
        self.model, self.size, self.batch_size, self.device = model, size, batch_size, device

    @cached_property
    def _network(self) -> nn.Module:
        return load_transformers("ViTModel", self.model, device=self.device)

    def fingerprint(self) -> str:
        return f"dino {self.size} {weights_fingerprint(self._network)}"

    def _embed(self, frames: UInt8[Tensor, "n H W 3"]) -> Float[Tensor, "n D"]:
        pixels = prepare_frames(
            frames, size=self.size, crop=False, mode="bilinear", mean=_IMAGENET_MEAN, std=_IMAGENET_STD
        )
        tokens: Tensor = self._network(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state
        return tokens[:, 0]


class ClipImageFeatures(_InBatches):
    """The image embedding of CLIP: VBench's background consistency takes ViT-B/32.

    Args:
        model: folder or id that transformers opens as a `CLIPVisionModelWithProjection`, such as
            `openai/clip-vit-base-patch32`.
        batch_size: frames at a time.
        device: of the network.
    """

    def __init__(self, *, model: str, batch_size: int = 16, device: str = "cpu") -> None:
        self.model, self.batch_size, self.device = model, batch_size, device

    @cached_property
    def _network(self) -> nn.Module:
        return load_transformers("CLIPVisionModelWithProjection", self.model, device=self.device)

    def fingerprint(self) -> str:
        return f"clip {weights_fingerprint(self._network)}"

    def _embed(self, frames: UInt8[Tensor, "n H W 3"]) -> Float[Tensor, "n D"]:
        config: Any = self._network.config
        pixels = prepare_frames(
            frames, size=int(config.image_size), crop=True, mode="bicubic", mean=_CLIP_MEAN, std=_CLIP_STD
        )
        embeddings: Tensor = self._network(pixel_values=pixels).image_embeds
        return embeddings


class TorchScriptFrameFeatures(_InBatches):
    """Any network saved by `torch.jit.save` that takes [n, 3, h, w] and returns [n, D].

    Args:
        path: of the module.
        size: short side in pixels that frames are scaled to.
        crop: whether the middle square is cut out.
        mean, std: of the colors, of 0 to 1, that the network was trained with.
        batch_size: frames at a time.
        device: of the network.
    """

    def __init__(
        self,
        *,
        path: str,
        size: int = 224,
        crop: bool = True,
        mean: tuple[float, float, float] = _IMAGENET_MEAN,
        std: tuple[float, float, float] = _IMAGENET_STD,
        batch_size: int = 16,
        device: str = "cpu",
    ) -> None:
        self.path, self.size, self.crop, self.mean, self.std = path, size, crop, tuple(mean), tuple(std)
        self.batch_size, self.device = batch_size, device

    @cached_property
    def _network(self) -> Callable[..., Any]:
        return load_torchscript(self.path, device=self.device)

    def fingerprint(self) -> str:
        return f"torchscript {self.size} {self.crop} {self.mean} {self.std} {file_fingerprint(self.path)}"

    def _embed(self, frames: UInt8[Tensor, "n H W 3"]) -> Float[Tensor, "n D"]:
        pixels = prepare_frames(frames, size=self.size, crop=self.crop, mode="bilinear", mean=self.mean, std=self.std)
        found: Tensor = self._network(pixels)
        if found.shape[:1] != frames.shape[:1] or found.ndim != 2:
            raise ValueError(f"{self.path} returned {tuple(found.shape)}; wanted [{frames.shape[0]}, D]")
        return found
