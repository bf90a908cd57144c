"""Merged weights give the live adapter's output, and are taken out again bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hh_train.model.checkpoint import load_model, save_model
from hh_train.model.lora import (
    AdapterRecipe,
    AdapterSet,
    activate,
    active_adapters,
    adapter_names,
    adapter_set,
    attach_adapter,
    fold_adapters,
    merge_adapters,
    merged_state_dict,
)
from hh_train.model.lora.attach import adapted_linears
from hh_train.model.transformer import SandwichTransformer
from hh_train.types import PackedBatch, Prediction

Disturbed = Callable[..., AdapterSet]
Dense = Callable[[SandwichTransformer, AdapterSet, dict[str, Tensor]], dict[str, Tensor]]


def assert_same(ours: Prediction, theirs: Prediction) -> None:
    torch.testing.assert_close(ours.video, theirs.video, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.audio, theirs.audio, atol=1e-5, rtol=0)


@torch.no_grad()
def test_merged_and_taken_out(adapted: tuple[SandwichTransformer, AdapterSet], batch: PackedBatch) -> None:
    model, _ = adapted
    live = model(batch)
    weights = {name: parameter.clone() for name, parameter in model.named_parameters()}
    merged = merge_adapters(model)
    assert_same(model(batch), live)
    assert sum(not torch.equal(parameter, weights[name]) for name, parameter in model.named_parameters()) > 3
    merged.undo()
    assert torch.equal(model(batch).video, live.video)
    assert all(torch.equal(parameter, weights[name]) for name, parameter in model.named_parameters())


@torch.no_grad()
def test_several_with_weights(
    tiny_model: SandwichTransformer, recipes: dict[str, AdapterRecipe], batch: PackedBatch, disturbed: Disturbed
) -> None:
    for seed, name in enumerate(("parts", "voice", "decomposed")):
        disturbed(attach_adapter(tiny_model, name, recipes[name]), seed)
    weights = {"parts": 0.5, "decomposed": -0.8}
    activate(tiny_model, {"voice": 1.0})
    with active_adapters(tiny_model, weights):
        live = tiny_model(batch)
    merged = merge_adapters(tiny_model, weights, set_aside="cpu")
    assert_same(tiny_model(batch), live)
    activate(tiny_model, {"voice": 1.0})
    on_top = tiny_model(batch)
    assert (on_top.audio - live.audio).abs().max() > 1e-2
    merged.undo()
    with active_adapters(tiny_model, weights):
        assert torch.equal(tiny_model(batch).video, live.video)


@torch.no_grad()
def test_folded_in_for_good(
    tiny_model: SandwichTransformer, recipes: dict[str, AdapterRecipe], batch: PackedBatch, disturbed: Disturbed
) -> None:
    """Only those with a weight stay; the model has the names of one that was never adapted."""
    names = list(tiny_model.state_dict())
    for seed, name in enumerate(("parts", "voice", "decomposed")):
        disturbed(attach_adapter(tiny_model, name, recipes[name]), seed)
    weights = {"parts": 0.5, "decomposed": -0.8}
    with active_adapters(tiny_model, weights):
        live = tiny_model(batch)
    fold_adapters(tiny_model, weights)
    assert_same(tiny_model(batch), live)
    assert list(tiny_model.state_dict()) == names and adapter_names(tiny_model) == []


def test_weights_are_those_written_out_row_by_row(
    tiny_model: SandwichTransformer, recipe: AdapterRecipe, disturbed: Disturbed, dense: Dense
) -> None:
    base = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    adapters = disturbed(attach_adapter(tiny_model, "one", recipe))
    state, wanted = merged_state_dict(tiny_model, {adapters: 1.0}), dense(tiny_model, adapters, base)
    assert state.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(state[name], tensor, atol=1e-5, rtol=1e-5, msg=name)


@torch.no_grad()
def test_a_checkpoint_in_the_released_layout(
    adapted: tuple[SandwichTransformer, AdapterSet], batch: PackedBatch, tmp_path: Path
) -> None:
    model, adapters = adapted

    def write(name: str, weight: float = 1.0, **settings: Any) -> Path:
        return save_model(merged_state_dict(model, {adapters: weight}), model.config, tmp_path / name, **settings)

    folder = write("merged", records={"note.txt": "merged"})
    loaded = load_model(folder, compute_dtype="float32")
    assert_same(loaded(batch), model(batch))
    assert (folder / "note.txt").read_text() == "merged"
    half = write("half", 0.5)
    with active_adapters(model, {"look": 0.5}):
        assert_same(load_model(half, compute_dtype="float32")(batch), model(batch))
    rounded = load_model(write("rounded", bfloat16_products=True), parameter_dtype="as_stored")
    assert rounded.get_parameter("block.layers.1.mlp.down_proj.weight").dtype == torch.bfloat16
    assert rounded.get_parameter("block.layers.1.mlp.pre_norm.weight").dtype == torch.float32


def test_dtypes_stay(tiny_model: SandwichTransformer, recipes: dict[str, AdapterRecipe], disturbed: Disturbed) -> None:
    weight = tiny_model.get_parameter("block.layers.1.mlp.down_proj.weight")
    weight.data = weight.data.bfloat16()
    adapters = disturbed(attach_adapter(tiny_model, "one", recipes["parts"]))
    state = merged_state_dict(tiny_model, {adapters: 1.0})
    merged = state["block.layers.1.mlp.down_proj.weight"]
    assert merged.dtype == torch.bfloat16 and not torch.equal(merged, weight)
    assert state["block.layers.2.mlp.down_proj.weight"].dtype == torch.float32
    undo = merge_adapters(tiny_model)
    undo.undo()
    assert torch.equal(tiny_model.block.layers[1].mlp.down_proj.base.weight, weight)


def test_quantized_weights_are_not_merged_into(adapted: tuple[SandwichTransformer, AdapterSet]) -> None:
    model, _ = adapted
    base = next(iter(adapted_linears(model).values())).base
    del base.weight
    with pytest.raises(ValueError, match="is quantized: load the base in bf16 or fp32"):
        merge_adapters(model)
    with pytest.raises(ValueError, match="is quantized"):
        merged_state_dict(model, {adapter_set(model, "look"): 1.0})
