"""The exponential moving average of what is trained, where most of a model is frozen: no copy of the frozen part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from hh_train.training.ema import exponential_moving_average


class TrainedParameters(nn.Module):
    """A model's trainable parameters alone, by their names. They are the model's own, not copies.

    Raises ValueError for a model without any.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not trained:
            raise ValueError("the model has no trainable parameters to average")
        for name, parameter in trained.items():
            self.register_parameter(name.replace(".", "/"), parameter)  # names of parameters hold no dots


class TrainedAverage(nn.Module):
    """Averages a model's trainable parameters; see `exponential_moving_average`.

    Args:
        model: is only read. Sharded before it comes here, if at all: the average is sharded alike.
        decay: of the average.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        super().__init__()
        self._trained = [
            TrainedParameters(model)
        ]  # in a list: no submodule, so that checkpoints hold the average alone
        self.average: AveragedModel = exponential_moving_average(self._trained[0], decay=decay)

    def update(self) -> None:
        """Moves towards the model's weights; call it after each optimizer step."""
        self.average.update_parameters(self._trained[0])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the averaged weights inside. One more tensor is held at a time."""
        self.exchange()
        try:
            yield
        finally:
            self.exchange()

    @torch.no_grad()
    def exchange(self) -> None:
        """Gives the model the averaged weights, and the average the model's; a second call undoes it."""
        pairs = zip(self._trained[0].parameters(), self.average.module.parameters(), strict=True)
        for own, averaged in pairs:
            kept: Tensor = own.clone()
            own.copy_(averaged)
            averaged.copy_(kept)
