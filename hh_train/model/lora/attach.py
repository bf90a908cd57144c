"""Building adapters into a transformer, switching them, and taking them out again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from hh_train.model.lora.layers import AdaptedLinear, LinearAdapter
from hh_train.model.lora.switch import AdapterSwitch
from hh_train.model.lora.targets import AdapterRecipe, Cell, RankScale, cell_rows, matrix_shape
from hh_train.model.transformer import SandwichTransformer
from hh_train.runtime.seeds import derived_seed
from hh_train.types import PackedBatch, Prediction


class AdapterSet(nn.Module):
    """One network's adapters alone, by the names of the matrix products they change.

    What is to be trained, averaged, counted and saved; the transformer holds the same modules.
    """

    def __init__(self, name: str, linears: Mapping[str, LinearAdapter]) -> None:
        super().__init__()
        self.name = name
        self.linears = nn.ModuleDict({key.replace(".", "/"): adapter for key, adapter in linears.items()})

    def items(self) -> Iterator[tuple[str, LinearAdapter]]:
        """Names of matrix products, as in the transformer without adapters, and their adapters."""
        for key, adapter in self.linears.items():
            yield key.replace("/", "."), cast(LinearAdapter, adapter)

    @property
    def cells(self) -> dict[Cell, RankScale]:
        return {cell: scale for _, adapter in self.items() for cell, scale in adapter.cells.items()}

    @property
    def decomposed(self) -> bool:
        return any(adapter.decomposed for _, adapter in self.items())


class AdaptedNetwork:
    """The transformer with some of its adapters, or with none, as a function of a pack."""

    def __init__(self, model: SandwichTransformer, weights: Mapping[str, float]) -> None:
        self.model = model
        self.weights = dict(weights)

    def __call__(self, batch: PackedBatch) -> Prediction:
        with active_adapters(self.model, self.weights):
            prediction: Prediction = self.model(batch)
        return prediction


def attach_adapter(model: SandwichTransformer, name: str, recipe: AdapterRecipe, *, seed: int = 0) -> AdapterSet:
    """Freezes the model and builds an adapter in, which is at work from then on and changes nothing yet.

    Sets that are drawn from one seed begin alike. A model may have several sets. On the meta device nothing is drawn:
    shard, `to_empty`, fill the base (`without_adapters`) and then call `initialize_adapter`.

    Raises:
        ValueError: for a name that is taken, a model that is sharded already, and as `AdapterRecipe.cells`.
    """
    attached = attach_cells(model, name, recipe.cells(model.config), decomposed=recipe.decomposed)
    if not any(parameter.is_meta for parameter in attached.parameters()):
        initialize_adapter(model, name, seed=seed)
    return attached


def attach_cells(
    model: SandwichTransformer, name: str, cells: Mapping[Cell, RankScale], *, decomposed: bool
) -> AdapterSet:
    """Builds an adapter in whose weights are still to be given."""
    _require_free(model, name)
    ordered = sorted(cells, key=lambda cell: (cell.linear, cell))
    grouped = {linear: list(group) for linear, group in groupby(ordered, key=lambda cell: cell.linear)}
    rows = {cell: cell_rows(model.config, cell) for cell in cells}
    switch = _switch(model) or _install_switch(model)
    for parameter in model.parameters() if not adapter_names(model) else ():
        parameter.requires_grad_(False)
    for linear in sorted(grouped, key=lambda key: grouped[key][0]):
        adapted = _adapted(model, linear, switch)
        first = grouped[linear][0]
        adapter = LinearAdapter(
            shape=matrix_shape(model.config, first.layer, first.matrix),
            cells={cell: cells[cell] for cell in grouped[linear]},
            rows=rows,
            compute_dtype=adapted.compute_dtype,
            decomposed=decomposed,
        )
        adapted.adapters[name] = adapter.to(model.layers[first.layer].attention.pre_norm.weight.device)
    switch.set({**switch.weights, name: 1.0})
    return adapter_set(model, name)


@torch.no_grad()
def initialize_adapter(model: SandwichTransformer, name: str, *, seed: int = 0) -> None:
    """Draws an adapter's first factors and clears its second ones: it changes nothing. The base has its weights.

    Sharded ones are filled too, where every process must call it. A seed draws the same whatever the order of the
    layers or the number of processes.
    """
    for linear, adapter in adapter_set(model, name).items():
        if adapter.decomposed:
            with gathered(model, linear, needed=True):
                adapter.measure_base(adapted_linears(model)[linear].base)
        for cell in adapter.cells:
            pair = adapter.pair(cell)
            generator = torch.Generator().manual_seed(derived_seed(seed, "adapter", cell.address))
            drawn = torch.randn(pair.down.shape, generator=generator) * adapter.shape.columns**-0.5
            fill(pair.down, drawn)
            fill(pair.up, torch.zeros(pair.up.shape))
            if pair.magnitude is not None:
                fill(pair.magnitude, base_rows(adapter, cell))


def base_rows(adapter: LinearAdapter, cell: Cell) -> Tensor:
    """Lengths of the base's rows that a cell changes."""
    experts = ("shared",) if adapter.shape.num_experts == 1 else ("video", "audio", "text")
    norms = cast(Tensor, adapter.base_norm).chunk(adapter.shape.num_experts)
    return norms[experts.index(cell.expert)][adapter.pair(cell).rows]


@torch.no_grad()
def fill(parameter: Tensor, value: Tensor) -> None:
    """Copies a whole tensor into a parameter, or this process's part of it."""
    if not isinstance(parameter, DTensor):
        parameter.copy_(value)
        return
    sizes, starts = compute_local_shape_and_global_offset(parameter.shape, parameter.device_mesh, parameter.placements)
    part = tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
    parameter.to_local().copy_(value[part])


def adapter_names(model: SandwichTransformer) -> list[str]:
    """Of all adapters that are built in."""
    return list(dict.fromkeys(name for linear in adapted_linears(model).values() for name in linear.adapters))


def adapter_set(model: SandwichTransformer, name: str) -> AdapterSet:
    """Raises ValueError for a name that the model has not."""
    found = {
        linear: cast(LinearAdapter, adapted.adapters[name])
        for linear, adapted in adapted_linears(model).items()
        if name in adapted.adapters
    }
    if not found:
        raise ValueError(f"the model has no adapter {name!r}; it has {adapter_names(model) or 'none'}")
    return AdapterSet(name, found)


def detach_adapter(model: SandwichTransformer, name: str) -> AdapterSet:
    """Takes an adapter out again and returns it. The last one leaves the model as it was, but frozen."""
    detached = adapter_set(model, name)
    for linear, adapted in adapted_linears(model).items():
        if name in adapted.adapters:
            del adapted.adapters[name]
        if not adapted.adapters:
            _place(model, linear, adapted.base)
    if switch := _switch(model):
        switch.set({key: weight for key, weight in switch.weights.items() if key != name})
    return detached


def activate(model: SandwichTransformer, weights: Mapping[str, float]) -> None:
    """Switches on these adapters, each with the weight of its change, and no others.

    Raises ValueError for names that the model has not.
    """
    unknown = sorted(set(weights) - set(adapter_names(model)))
    if unknown:
        raise ValueError(f"the model has no adapters {unknown}; it has {adapter_names(model) or 'none'}")
    if switch := _switch(model):
        switch.set(weights)


@contextmanager
def active_adapters(model: SandwichTransformer, weights: Mapping[str, float]) -> Iterator[None]:
    """Switches adapters for what is computed inside. A later backward pass computes with the same again."""
    switch = _switch(model)
    before = dict(switch.weights) if switch else {}
    activate(model, weights)
    try:
        yield
    finally:
        activate(model, before)


@contextmanager
def without_adapters(model: SandwichTransformer) -> Iterator[SandwichTransformer]:
    """The model with the parameters' names of one that was never adapted: to load or to save the base."""
    adapted = adapted_linears(model)
    for name, linear in adapted.items():
        _place(model, name, linear.base)
    try:
        yield model
    finally:
        for name, linear in adapted.items():
            _place(model, name, linear)


def _require_free(model: SandwichTransformer, name: str) -> None:
    if not name.isidentifier():
        raise ValueError(f"got the adapter name {name!r}, wanted letters, digits and underscores")
    if name in adapter_names(model):
        raise ValueError(f"the model has an adapter {name!r} already: detach it, or take another name")
    if any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        raise ValueError("the model is sharded already: attach adapters first, so that they are sharded with it")


def adapted_linears(model: SandwichTransformer) -> dict[str, AdaptedLinear]:
    """Every matrix product that has an adapter, by its name in the model without adapters."""
    found = {}
    for index, layer in enumerate(model.layers):
        for half in ("attention", "mlp"):
            for attribute, child in getattr(layer, half).named_children():
                if isinstance(child, AdaptedLinear):
                    found[f"block.layers.{index}.{half}.{attribute}"] = child
    return found


def _adapted(model: SandwichTransformer, linear: str, switch: AdapterSwitch) -> AdaptedLinear:
    present = model.get_submodule(linear)
    if isinstance(present, AdaptedLinear):
        return present
    dtype = model.layers[int(linear.split(".")[2])].compute_dtype
    adapted = AdaptedLinear(present, compute_dtype=dtype, switch=switch)
    _place(model, linear, adapted.train(present.training))
    return adapted


def _place(model: SandwichTransformer, linear: str, module: nn.Module) -> None:
    holder, _, attribute = linear.rpartition(".")
    setattr(model.get_submodule(holder), attribute, module)


def _switch(model: SandwichTransformer) -> AdapterSwitch | None:
    return next((linear.switch for linear in adapted_linears(model).values()), None)


def _install_switch(model: SandwichTransformer) -> AdapterSwitch:
    switch = AdapterSwitch()
    for layer in model.layers:
        layer.register_forward_hook(switch.remember)
    return switch


@contextmanager
def gathered(model: SandwichTransformer, linear: str, *, needed: bool) -> Iterator[None]:
    """A sharded layer's weights as a whole, where a forward pass of one of its products is `needed`.

    What is written to parameters meanwhile is lost.
    """
    layer = model.layers[int(linear.split(".")[2])]
    if not needed or not isinstance(layer, FSDPModule):
        yield
        return
    layer.unshard()
    try:
        yield
    finally:
        layer.reshard()
