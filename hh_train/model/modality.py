"""Linear layers and norms with one expert, shared by all tokens, or one expert per modality.

Experts are stacked on the first dimension in the order of `Modality`, as in the released weights. With several experts
the tokens must stand grouped by modality; `counts` says how many of each there are.
"""

from __future__ import annotations

from itertools import accumulate

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hh_train.types import Modality

NORM_EPS = 1e-6
HOPPER = (9, 0)
"""Compute capability of the first GPUs with a kernel for grouped products."""
GROUPED_MULTIPLE = 8
"""bf16 elements in the 16 bytes that this kernel loads at a time."""


def grouped_is_faster(*, capability: tuple[int, int] | None, dtype: torch.dtype, sizes: tuple[int, int]) -> bool:
    """Whether torch has a kernel for experts of `sizes` = (out, in): bf16 on GPUs since Hopper, rows of whole 16 bytes.

    Elsewhere its grouped product is a loop too, and no faster. The inner width of the 15B model's SwiGLU is a multiple
    of 4 elements only, so that these down projections stay separate.

    Args:
        capability: of the CUDA device; None on others.
    """
    has_kernel = capability is not None and capability >= HOPPER and dtype == torch.bfloat16
    return has_kernel and not any(size % GROUPED_MULTIPLE for size in sizes)


def grouped_products(
    x: Float[Tensor, "N in"], experts: Float[Tensor, "E out in"], counts: tuple[int, int, int]
) -> Float[Tensor, "N out"]:
    """Each modality's tokens times its expert, in one kernel."""
    ends = torch.tensor(list(accumulate(counts)), dtype=torch.int32, device=x.device)
    return F.grouped_mm(x, experts.mT, offs=ends)


def separate_products(
    x: Float[Tensor, "N in"], experts: Float[Tensor, "E out in"], counts: tuple[int, int, int]
) -> Float[Tensor, "N out"]:
    """Each modality's tokens times its expert, one after another."""
    return torch.cat([F.linear(part, expert) for part, expert in zip(x.split(counts), experts, strict=True)])


class ModalityLinear(nn.Module):
    """y = x W^T without bias; products in `compute_dtype`, whatever the dtype of the weights."""

    def __init__(self, *, in_features: int, out_features: int, per_modality: bool, compute_dtype: torch.dtype) -> None:
        super().__init__()
        self.num_experts = len(Modality) if per_modality else 1
        self.compute_dtype = compute_dtype
        self.weight = nn.Parameter(torch.empty(self.num_experts * out_features, in_features))

    def forward(self, x: Float[Tensor, "N in"], counts: tuple[int, int, int]) -> Float[Tensor, "N out"]:
        x, weight = x.to(self.compute_dtype), self.weight.to(self.compute_dtype)
        if self.num_experts == 1:
            return F.linear(x, weight)
        experts = weight.unflatten(0, (self.num_experts, -1))
        capability = torch.cuda.get_device_capability(x.device) if x.is_cuda else None
        sizes = (experts.shape[1], experts.shape[2])
        is_grouped = grouped_is_faster(capability=capability, dtype=x.dtype, sizes=sizes)
        return grouped_products(x, experts, counts) if is_grouped else separate_products(x, experts, counts)


class ModalityRMSNorm(nn.Module):
    """y = x / sqrt(mean(x^2) + 1e-6) * (1 + w) over the last dimension, in fp32; w starts at 0."""

    def __init__(self, *, size: int, per_modality: bool) -> None:
        super().__init__()
        self.num_experts = len(Modality) if per_modality else 1
        self.weight = nn.Parameter(torch.zeros(self.num_experts * size))

    def forward(
        self, x: Float[Tensor, "N *shape size"], counts: tuple[int, int, int]
    ) -> Float[Tensor, "N *shape size"]:
        x = x.float()
        normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + NORM_EPS)
        if self.num_experts == 1:
            return normed * (1 + self.weight)
        experts = self.weight.chunk(self.num_experts)
        return torch.cat([part * (1 + expert) for part, expert in zip(normed.split(counts), experts, strict=True)])
