"""Losses per token, and their means over the tokens that count."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def squared_error(prediction: Float[Tensor, "N C"], target: Float[Tensor, "N C"]) -> Float[Tensor, " N"]:
    """Mean over channels of (prediction - target)^2, in fp32."""
    return (prediction.float() - target.float()).square().mean(-1)


@dataclass(frozen=True)
class ClipSums:
    """Sums of a per-token value over each clip's counted tokens, and how many there were."""

    total: Float[Tensor, " B"]
    count: Float[Tensor, " B"]

    @classmethod
    def over_tokens(
        cls, values: Float[Tensor, " N"], counted: Bool[Tensor, " N"], clip: Int[Tensor, " N"], *, num_clips: int
    ) -> ClipSums:
        """`clip` says which clip a token belongs to."""
        zeros = torch.zeros(num_clips, device=values.device)
        return cls(
            total=zeros.index_add(0, clip, values.float() * counted),
            count=zeros.index_add(0, clip, counted.float()),
        )

    def mean(self) -> Float[Tensor, ""]:
        """Over all counted tokens; 0 without any."""
        return self.total.sum() / self.count.sum().clamp(min=1)
