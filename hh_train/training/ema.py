"""Exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def exponential_moving_average(model: nn.Module, *, decay: float) -> AveragedModel:
    """A frozen copy that `update_parameters(model)` moves by 1 - min(decay, (1 + n) / (10 + n)) at update n.

    The ramp forgets the random start in short runs. The first update copies the weights. Raises ValueError unless
    0 <= decay < 1.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"an EMA decay lies in [0, 1), got {decay}; leave the EMA out with null")
    average = AveragedModel(model, multi_avg_fn=_ramped(decay))
    return average.requires_grad_(False)


def _ramped(decay: float) -> Callable[[Any, Any, Any], None]:
    @torch.no_grad()
    def update(averaged: list[Tensor], current: list[Tensor], num_averaged: Tensor | int) -> None:
        n = int(num_averaged)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + n) / (10 + n)))

    return update
