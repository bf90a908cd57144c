"""Optical flow and frames in between, by networks given by path.

RAFT (Teed and Deng, ECCV 2020) and AMT (Li et al., CVPR 2023) are what VBench measures with. Frames go through at
their own size: the published scorer lets the video memory of the machine choose the size, so that its numbers depend
on the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from hh_train.metrics.networks import file_fingerprint, load_torchscript

_FLOW_MULTIPLE, _MIDDLE_MULTIPLE = 8, 16


@runtime_checkable
class FlowNetwork(Protocol):
    """Estimates optical flow."""

    def flow(self, first: UInt8[Tensor, "H W 3"], second: UInt8[Tensor, "H W 3"]) -> Float[Tensor, "2 H W"]:
        """Where each pixel of the first frame goes (x, y), in pixels."""
        ...

    def fingerprint(self) -> str:
        """Changes with the weights."""
        ...


@runtime_checkable
class FrameInterpolator(Protocol):
    """Makes the frame between two."""

    def middle(self, first: UInt8[Tensor, "H W 3"], second: UInt8[Tensor, "H W 3"]) -> UInt8[Tensor, "H W 3"]:
        """The frame half-way."""
        ...

    def fingerprint(self) -> str:
        """Changes with the weights."""
        ...


class _TorchScriptPair:
    """A network of two frames."""

    def __init__(self, *, path: str, device: str = "cpu") -> None:
        self.path, self.device = path, device

    @cached_property
    def _network(self) -> Callable[..., Any]:
        return load_torchscript(self.path, device=self.device)

    def fingerprint(self) -> str:
        return f"torchscript {file_fingerprint(self.path)}"

    def _planes(self, frame: UInt8[Tensor, "H W 3"]) -> Float[Tensor, "1 3 H W"]:
        return frame.to(self.device).permute(2, 0, 1)[None].float()


class TorchScriptFlow(_TorchScriptPair):
    """A flow network such as RAFT: two frames [1, 3, H, W] of 0 to 255, sides multiples of 8, to flow [1, 2, H, W] in
    pixels. Of several answers the last is the flow.

    Args:
        path: of the module, saved by `torch.jit.save`.
        device: of the network.
    """

    @torch.no_grad()
    def flow(self, first: UInt8[Tensor, "H W 3"], second: UInt8[Tensor, "H W 3"]) -> Float[Tensor, "2 H W"]:
        size = (first.shape[0], first.shape[1])
        answer = self._network(*(pad_to_multiple(self._planes(f), _FLOW_MULTIPLE) for f in (first, second)))
        found: Tensor = answer[-1] if isinstance(answer, tuple | list) else answer
        return unpad(found, size)[0].float().cpu()


class TorchScriptInterpolator(_TorchScriptPair):
    """A network such as AMT-S: two frames [1, 3, H, W] of 0 to 1, sides multiples of 16, and the time [1, 1, 1, 1] to
    the frame at that time; or to a dictionary that has it as `imgt_pred`.

    Args:
        path: of the module, saved by `torch.jit.save`.
        device: of the network.
    """

    @torch.no_grad()
    def middle(self, first: UInt8[Tensor, "H W 3"], second: UInt8[Tensor, "H W 3"]) -> UInt8[Tensor, "H W 3"]:
        size = (first.shape[0], first.shape[1])
        pair = [pad_to_multiple(self._planes(f) / 255, _MIDDLE_MULTIPLE) for f in (first, second)]
        answer = self._network(*pair, torch.full((1, 1, 1, 1), 0.5, device=self.device))
        found: Tensor = answer["imgt_pred"] if isinstance(answer, dict) else answer
        levels = (unpad(found, size)[0].float() * 255).clamp(0, 255)
        return levels.to(torch.uint8).permute(1, 2, 0).contiguous().cpu()


def pad_to_multiple(planes: Float[Tensor, "1 C H W"], multiple: int) -> Float[Tensor, "1 C h w"]:
    """Repeats the edges, as much on both sides, until the sides are multiples."""
    (left, right), (top, bottom) = _margins(planes.shape[-1], multiple), _margins(planes.shape[-2], multiple)
    return functional.pad(planes, (left, right, top, bottom), mode="replicate")


def unpad(planes: Float[Tensor, "1 C h w"], size: tuple[int, int]) -> Float[Tensor, "1 C H W"]:
    """The middle of this height and width."""
    top, left = (planes.shape[-2] - size[0]) // 2, (planes.shape[-1] - size[1]) // 2
    return planes[..., top : top + size[0], left : left + size[1]]


def _margins(length: int, multiple: int) -> tuple[int, int]:
    missing = -length % multiple
    return missing // 2, missing - missing // 2
