"""The distribution-matching loss of DMD2 (arXiv:2405.14867), as formulas."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NORMALIZER_FLOOR = 1e-6


@dataclass(frozen=True)
class Distance:
    """Sum over each clip's counted elements of |generated - teacher|, and how many elements there were; in fp64."""

    total: Float[Tensor, " B"]
    count: Float[Tensor, " B"]

    @classmethod
    def between(
        cls,
        generated: Float[Tensor, "N C"],
        teacher_clean: Float[Tensor, "N C"],
        counted: Bool[Tensor, " N"],
        clip: Int[Tensor, " N"],
        *,
        num_clips: int,
    ) -> Distance:
        """`clip` says which clip a token belongs to."""
        zeros = torch.zeros(num_clips, device=generated.device, dtype=torch.float64)
        each = (generated.double() - teacher_clean.double()).abs().sum(-1) * counted
        return cls(
            total=zeros.index_add(0, clip, each),
            count=zeros.index_add(0, clip, counted.double() * generated.shape[1]),
        )

    def __add__(self, other: Distance) -> Distance:
        return Distance(self.total + other.total, self.count + other.count)

    @property
    def mean(self) -> Float[Tensor, " B"]:
        """Of each clip; never below `NORMALIZER_FLOOR`."""
        return (self.total / self.count.clamp(min=1)).clamp(min=NORMALIZER_FLOOR)


def distribution_matching_gradient(
    critic_clean: Float[Tensor, "N C"],
    teacher_clean: Float[Tensor, "N C"],
    normalizer: Float[Tensor, " B"],
    clip: Int[Tensor, " N"],
) -> Float[Tensor, "N C"]:
    """(critic - teacher) / normalizer of the clip (Eqs. 7 and 8, arXiv:2311.18828).

    In fp64, since critic and teacher differ by little; values that are not finite become 0.
    """
    difference = critic_clean.double() - teacher_clean.double()
    return torch.nan_to_num(difference / normalizer.double()[clip][:, None], posinf=0.0, neginf=0.0).float()


def distribution_matching_loss(generated: Float[Tensor, "N C"], gradient: Float[Tensor, "N C"]) -> Float[Tensor, " N"]:
    """Half the squared distance to generated - gradient, mean over channels: its derivative is gradient / C."""
    target = (generated - gradient).detach().float()
    return 0.5 * (generated.float() - target).square().mean(-1)
