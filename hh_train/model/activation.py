"""The MLPs' clamped activations, computed in fp32 and returned in the dtype of their input.

Uncompiled training keeps the input alone for the backward pass and computes the rest again: less memory, and fewer
passes over it than the automatic gradient of the formula takes. Compiled, the formula itself is fused.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CLAMP = 7.0
SLOPE = 1.702
BEYOND = CLAMP * (1 + 2**-23)
"""The next number in fp32: at the clamp itself the gradient still passes."""


class GELU7(nn.Module):
    """z sigmoid(1.702 z) with z = min(u, 7)."""

    def forward(self, up: Float[Tensor, "N I"]) -> Float[Tensor, "N I"]:
        if _keeps_input_alone(up):
            activated: Tensor = _GELU7.apply(up)  # type: ignore[no-untyped-call]
            return activated
        clamped = up.float().clamp(max=CLAMP)
        return (clamped * torch.sigmoid(SLOPE * clamped)).to(up.dtype)


class SwiGLU7(nn.Module):
    """z sigmoid(1.702 z) (l + 1); even channels are z, clamped from above, odd channels l, clamped on both sides."""

    def forward(self, up: Float[Tensor, "N GL"]) -> Float[Tensor, "N I"]:
        if _keeps_input_alone(up):
            activated: Tensor = _SwiGLU7.apply(up)  # type: ignore[no-untyped-call]
            return activated
        gate, linear = _pairs(up)
        gate, linear = gate.clamp(max=CLAMP), linear.clamp(-CLAMP, CLAMP)
        return (gate * torch.sigmoid(SLOPE * gate) * (linear + 1)).to(up.dtype)


def _keeps_input_alone(up: Tensor) -> bool:
    return up.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _pairs(up: Tensor) -> tuple[Tensor, Tensor]:
    """Even and odd channels in fp32: views of one copy, or of `up` itself."""
    gate, linear = up.float().unflatten(-1, (-1, 2)).unbind(-1)
    return gate, linear


class _GELU7(torch.autograd.Function):
    """silu(1.702 z) / 1.702, since torch has fused kernels for silu(x) = x sigmoid(x) and its derivative."""

    @staticmethod
    def forward(ctx: Any, up: Tensor) -> Tensor:
        ctx.save_for_backward(up)
        scaled = up.float().clamp(max=CLAMP).mul_(SLOPE)
        return F.silu(scaled, inplace=True).mul_(1 / SLOPE).to(up.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (up,) = ctx.saved_tensors
        scaled = up.float().clamp(max=CLAMP).mul_(SLOPE)
        unclamped = torch.ops.aten.silu_backward(gradient.float(), scaled)
        of_up: Tensor = torch.ops.aten.hardtanh_backward(unclamped, up.float(), -math.inf, BEYOND)
        return of_up.to(up.dtype)


class _SwiGLU7(torch.autograd.Function):
    """silu(1.702 z) (l + 1) / 1.702."""

    @staticmethod
    def forward(ctx: Any, up: Tensor) -> Tensor:
        ctx.save_for_backward(up)
        gate, linear = _pairs(up)
        factor = linear.clamp(-CLAMP, CLAMP).add_(1).mul_(1 / SLOPE)
        return F.silu(gate.clamp(max=CLAMP).mul_(SLOPE), inplace=True).mul_(factor).to(up.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (up,) = ctx.saved_tensors
        gate, linear = (channels.contiguous() for channels in _pairs(up))
        gradient = gradient.float()
        scaled = gate.clamp(max=CLAMP).mul_(SLOPE)
        of_scaled = torch.ops.aten.silu_backward(linear.clamp(-CLAMP, CLAMP).add_(1).mul_(gradient), scaled)
        of_gate = torch.ops.aten.hardtanh_backward(of_scaled, gate, -math.inf, BEYOND)
        of_factor = F.silu(scaled, inplace=True).mul_(gradient).mul_(1 / SLOPE)
        of_linear = torch.ops.aten.hardtanh_backward(of_factor, linear, -BEYOND, BEYOND)
        # A complex number is a pair of neighbors in memory: this interleaves faster than two strided writes.
        interleaved = torch.view_as_real(torch.complex(of_gate, of_linear)).flatten(-2)
        return interleaved.to(up.dtype)
