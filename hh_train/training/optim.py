"""The optimizer and its schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from torch.nn import Parameter
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR


@dataclass(frozen=True, kw_only=True)
class AdamWRecipe:
    """AdamW with linear warm-up and cosine decay; weight decay on matrices only.

    `final_share` is the share of the learning rate that is left at the last step.
    """

    learning_rate: float
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    warmup_steps: int = 0
    final_share: float = 1.0

    def build(self, parameters: Iterable[Parameter], *, num_steps: int) -> tuple[Optimizer, LambdaLR]:
        """The optimizer of the trainable parameters and its schedule over `num_steps` steps."""
        trainable = [parameter for parameter in parameters if parameter.requires_grad]
        optimizer = AdamW(
            [
                {"params": [p for p in trainable if p.dim() >= 2], "weight_decay": self.weight_decay},
                {"params": [p for p in trainable if p.dim() < 2], "weight_decay": 0.0},
            ],
            lr=self.learning_rate,
            betas=(self.betas[0], self.betas[1]),
            fused=all(p.device.type in ("cuda", "cpu") for p in trainable),
        )
        return optimizer, LambdaLR(optimizer, partial(self._share, num_steps=num_steps))

    def _share(self, step: int, *, num_steps: int) -> float:
        """Learning rate at a step as a share of the peak. The first step already moves."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / max(1, num_steps - self.warmup_steps))
        return self.final_share + (1 - self.final_share) * 0.5 * (1 + math.cos(math.pi * progress))
