"""The distribution-matching loss of DMD2 (arXiv:2405.14867)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NORMALIZER_FLOOR = 1e-6


def distribution_matching_gradient(
    generated: Float[Tensor, "N C"],
    critic_clean: Float[Tensor, "N C"],
    teacher_clean: Float[Tensor, "N C"],
    counted: Bool[Tensor, " N"],
    clip: Int[Tensor, " N"],
    *,
    num_clips: int,
) -> Float[Tensor, "N C"]:
    """(critic - teacher) / mean |generated - teacher|, over each clip's counted tokens (Eq. 7, arXiv:2311.18828).

    One call sees one modality, so each modality has its own normalizer. In fp32; values that are not finite become 0.
    """
    generated, critic_clean, teacher_clean = (x.detach().float() for x in (generated, critic_clean, teacher_clean))
    distance = (generated - teacher_clean).abs().mean(-1) * counted
    zeros = torch.zeros(num_clips, device=distance.device)
    total = zeros.index_add(0, clip, distance)
    count = zeros.index_add(0, clip, counted.float()).clamp(min=1)
    normalizer = (total / count).clamp(min=NORMALIZER_FLOOR)
    return torch.nan_to_num((critic_clean - teacher_clean) / normalizer[clip][:, None], posinf=0.0, neginf=0.0)


def distribution_matching_loss(generated: Float[Tensor, "N C"], gradient: Float[Tensor, "N C"]) -> Float[Tensor, " N"]:
    """Half the squared distance to generated - gradient, mean over channels: its derivative is gradient / C."""
    target = (generated - gradient).detach().float()
    return 0.5 * (generated.float() - target).square().mean(-1)
