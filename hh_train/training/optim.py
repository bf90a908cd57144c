"""The optimizer and its schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch.nn import Parameter
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

Moments = Literal["float32", "8bit"]
_FP32 = 4
_BLOCK = 256
"""Moments under one scale."""
_SMALLEST_IN_BLOCKS = 4096
"""Parameters of fewer numbers keep theirs in fp32."""


@dataclass(frozen=True, kw_only=True)
class RatedParameters:
    """Parameters that learn at a share of the learning rate."""

    parameters: Sequence[Parameter]
    share: float = 1.0


@dataclass(frozen=True, kw_only=True)
class AdamWRecipe:
    """AdamW with linear warm-up and cosine decay; weight decay on matrices only.

    `final_share` is the share of the learning rate that is left at the last step. `moments` says how the two moments of
    each parameter are kept: "8bit" (arXiv:2110.02861, torchao's) takes 2 bytes for both instead of 8, and compiles the
    step for every shape once.
    """

    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    warmup_steps: int = 0
    final_share: float = 1.0
    moments: Moments = "float32"

    def build(self, parameters: Iterable[Parameter], *, num_steps: int) -> tuple[Optimizer, LambdaLR]:
        """The optimizer of the trainable parameters and its schedule over `num_steps` steps.

        Raises ValueError for 8-bit moments without torchao.
        """
        return self.build_rated([RatedParameters(parameters=tuple(parameters))], num_steps=num_steps)

    def build_rated(self, rated: Sequence[RatedParameters], *, num_steps: int) -> tuple[Optimizer, LambdaLR]:
        """`build` for parameters of several rates."""
        groups: list[dict[str, Any]] = []
        for one in rated:
            trainable = [parameter for parameter in one.parameters if parameter.requires_grad]
            matrices, vectors = ([p for p in trainable if (p.dim() >= 2) == matrix] for matrix in (True, False))
            rate = self.learning_rate * one.share
            groups += [
                {"params": matrices, "lr": rate, "weight_decay": self.weight_decay},
                {"params": vectors, "lr": rate, "weight_decay": 0.0},
            ]
        optimizer = self._optimizer(groups)
        return optimizer, LambdaLR(optimizer, partial(self._share, num_steps=num_steps))

    def _optimizer(self, groups: list[dict[str, Any]]) -> Optimizer:
        betas = (self.betas[0], self.betas[1])
        if self.moments == "float32":
            fused = all(p.device.type in ("cuda", "cpu") for group in groups for p in group["params"])
            return AdamW(groups, lr=self.learning_rate, betas=betas, fused=fused)
        try:
            from torchao.optim import AdamW8bit  # type: ignore[import-untyped]
        except ImportError as error:
            raise ValueError(
                f"8-bit moments need torchao, which cannot be imported ({error}): pip install torchao, or "
                "moments: float32"
            ) from error
        optimizer: Optimizer = AdamW8bit(groups, lr=self.learning_rate, betas=betas, block_size=_BLOCK)
        return optimizer

    def _share(self, step: int, *, num_steps: int) -> float:
        """Learning rate at a step as a share of the peak. The first step already moves."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / max(1, num_steps - self.warmup_steps))
        return self.final_share + (1 - self.final_share) * 0.5 * (1 + math.cos(math.pi * progress))


def moment_bytes(sizes: Iterable[int], moments: Moments) -> int:
    """Of both moments of parameters of so many numbers each."""
    total = 0
    for size in sizes:
        in_blocks = moments == "8bit" and size >= _SMALLEST_IN_BLOCKS and size % _BLOCK == 0
        total += 2 * (size + _FP32 * size // _BLOCK if in_blocks else _FP32 * size)
    return total
