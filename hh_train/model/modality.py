"""Linear layers and norms with one expert, shared by all tokens, or one expert per modality.

Experts are stacked on the first dimension in the order of `Modality`, as in the released weights. With several experts
the tokens must stand grouped by modality; `counts` says how many of each there are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hh_train.types import Modality

NORM_EPS = 1e-6


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
        experts = weight.chunk(self.num_experts)
        return torch.cat([F.linear(part, expert) for part, expert in zip(x.split(counts), experts, strict=True)])


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
