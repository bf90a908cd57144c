"""Which adapters are at work, for a whole transformer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn
from torch.autograd import Variable


class AdapterSwitch:
    """Adapters at work by name, each with the weight of its change.

    A layer that is computed again in the backward pass is computed with the adapters of its forward pass, whatever
    has been switched on since; afterwards the switch stands as before.
    """

    def __init__(self) -> None:
        self.weights: dict[str, float] = {}
        self._set_aside: dict[str, float] | None = None

    def set(self, weights: Mapping[str, float]) -> None:
        self.weights = dict(weights)
        self._set_aside = None

    def remember(self, layer: nn.Module, arguments: object, output: Tensor) -> None:  # noqa: ARG002
        """A forward hook of a layer. Its output's gradient comes before the layer is computed again."""
        if output.requires_grad:
            output.register_hook(partial(self._return_to, self.weights))

    def _return_to(self, weights: dict[str, float], gradient: Tensor) -> None:  # noqa: ARG002
        if weights == self.weights:
            return
        if self._set_aside is None:
            self._set_aside = self.weights
            Variable._execution_engine.queue_callback(self._restore)
        self.weights = weights

    def _restore(self) -> None:
        if self._set_aside is not None:
            self.weights, self._set_aside = self._set_aside, None
