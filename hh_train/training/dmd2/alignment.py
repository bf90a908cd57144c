"""Implicit distribution alignment: the critic follows the student's weights (section 3.2, arXiv:2506.00523)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ImplicitAlignment:
    """After each student step, critic = retained critic + (1 - retained) student.

    Raises ValueError unless 0 <= retained <= 1.
    """

    retained: float = 0.97

    def __post_init__(self) -> None:
        if not 0 <= self.retained <= 1:
            raise ValueError(f"got a retained share of {self.retained}, wanted one in [0, 1]")

    @torch.no_grad()
    def __call__(self, critic: Sequence[Tensor], student: Sequence[Tensor]) -> None:
        """Moves the critic's tensors, in the order of the student's, in place."""
        torch._foreach_lerp_(list(critic), list(student), 1 - self.retained)
