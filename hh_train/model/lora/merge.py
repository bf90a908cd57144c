"""Adapters added to the base's weights: for a while, or in a checkpoint of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from hh_train.model.lora.attach import (
    AdapterSet,
    activate,
    adapted_linears,
    adapter_names,
    adapter_set,
    detach_adapter,
    without_adapters,
)
from hh_train.model.transformer import SandwichTransformer


@dataclass(frozen=True)
class MergedAdapters:
    """What `merge_adapters` set aside."""

    model: SandwichTransformer
    originals: Mapping[str, Tensor]
    was_active: Mapping[str, float]

    @torch.no_grad()
    def undo(self) -> None:
        """Puts the base's own weights back, bit by bit, and switches the adapters on that were."""
        for linear, original in self.originals.items():
            weight = _base_weight(linear, adapted_linears(self.model)[linear].base)
            weight.data = original.to(weight.device)
        activate(self.model, self.was_active)


@torch.no_grad()
def merge_adapters(
    model: SandwichTransformer, weights: Mapping[str, float] | None = None, *, set_aside: str | None = None
) -> MergedAdapters:
    """Adds adapters, by default those at work, to the model's weights, and switches all off: sampling costs no more.

    Args:
        weights: of each adapter's change, by name.
        set_aside: device on which the base's own weights wait, e.g. "cpu"; by default where they are.

    Raises ValueError for unknown names, and for a base whose weights are sharded or quantized.
    """
    linears = adapted_linears(model)
    was_active = _active(model)
    sets = [(adapter_set(model, name), scale) for name, scale in (was_active if weights is None else weights).items()]
    originals = {}
    merged = {linear: _merged(linear, _base_weight(linear, linears[linear].base), sets) for linear in _changed(sets)}
    for linear, tensor in merged.items():
        weight = _base_weight(linear, linears[linear].base)
        originals[linear] = weight.data if set_aside is None else weight.data.to(set_aside)
        weight.data = tensor
    activate(model, {})
    return MergedAdapters(model=model, originals=originals, was_active=was_active)


@torch.no_grad()
def fold_adapters(model: SandwichTransformer, weights: Mapping[str, float] | None = None) -> None:
    """Adds adapters, by default those at work, for good, a matrix at a time, and takes all out of the model.

    Raises ValueError as `merge_adapters`.
    """
    linears, chosen = adapted_linears(model), _active(model) if weights is None else weights
    sets = [(adapter_set(model, name), scale) for name, scale in chosen.items()]
    bases = {linear: _base_weight(linear, linears[linear].base) for linear in _changed(sets)}
    for linear, weight in bases.items():
        weight.data = _merged(linear, weight, sets)
    for name in adapter_names(model):
        detach_adapter(model, name)


@torch.no_grad()
def merged_state_dict(model: SandwichTransformer, adapters: Mapping[AdapterSet, float]) -> dict[str, Tensor]:
    """The base's weights with the changes of these adapters (or of averages of such), each times its weight.

    Keys are those of a model that was never adapted; dtypes stay. The model stays as it is.

    Raises ValueError for a base whose weights are sharded or quantized.
    """
    with without_adapters(model):
        state: dict[str, Tensor] = dict(model.state_dict())
    sets = list(adapters.items())
    bases = adapted_linears(model)
    for linear in _changed(sets):
        state[f"{linear}.weight"] = _merged(linear, _base_weight(linear, bases[linear].base), sets)
    return state


def _active(model: SandwichTransformer) -> dict[str, float]:
    return next((dict(linear.switch.weights) for linear in adapted_linears(model).values()), {})


def _changed(sets: list[tuple[AdapterSet, float]]) -> list[str]:
    return list(dict.fromkeys(linear for adapters, _ in sets for linear, _ in adapters.items()))


def _merged(linear: str, weight: Tensor, sets: list[tuple[AdapterSet, float]]) -> Tensor:
    merged = weight.detach().float()
    changes = [
        dict(adapters.items())[linear].change(weight) * scale
        for adapters, scale in sets
        if linear in dict(adapters.items())
    ]
    return sum(changes, merged).to(weight.dtype)


def _base_weight(linear: str, base: nn.Module) -> nn.Parameter:
    weight = getattr(base, "weight", None)
    if isinstance(weight, DTensor):
        raise ValueError(
            f"{linear} is sharded: write the adapter to a file, and merge that into the base in a single process"
        )
    if not isinstance(weight, nn.Parameter) or not weight.is_floating_point() or weight.itemsize < 2:
        raise ValueError(f"{linear} is quantized: load the base in bf16 or fp32 to merge an adapter into it")
    return weight
