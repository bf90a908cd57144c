"""Parts and experts as one change of the whole matrix, and back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from hh_train.model.lora import AdapterRecipe, AdapterRule, AdapterSet, Cell, attach_adapter, detach_adapter
from hh_train.model.lora.attach import adapted_linears
from hh_train.model.lora.matrices import (
    MatrixChange,
    attach_weights,
    matrix_changes,
    split_changes,
    whole_matrix_cells,
)
from hh_train.model.transformer import SandwichTransformer
from hh_train.types import PackedBatch

Disturbed = Callable[..., AdapterSet]


def test_one_pair_says_what_the_parts_say(adapted: tuple[SandwichTransformer, AdapterSet]) -> None:
    """Also for DoRA, in both senses of the rows' lengths."""
    model, adapters = adapted
    changes = matrix_changes(model, adapters)
    for linear, adapter in adapters.items():
        weight, change = adapted_linears(model)[linear].base.weight, changes[linear]
        changed = weight + change.alpha / change.rank * change.up @ change.down
        if change.magnitude is not None and change.gained is not None:
            by_peft = (change.magnitude / changed.norm(dim=1))[:, None] * changed
            by_comfyui = (change.gained / weight.norm(dim=1))[:, None] * changed
            torch.testing.assert_close(by_peft, by_comfyui, atol=1e-6, rtol=1e-5)
            changed = by_peft
        torch.testing.assert_close(changed, weight + adapter.change(weight), atol=1e-6, rtol=1e-5)
        assert (changed - weight).abs().max() > 1e-2


def test_split_again_they_are_the_same_parts(
    adapted: tuple[SandwichTransformer, AdapterSet], batch: PackedBatch
) -> None:
    model, adapters = adapted
    expected = model(batch).video
    cells = split_changes(matrix_changes(model, adapters), adapters.cells, model.config)
    assert cells.keys() == adapters.cells.keys()
    detach_adapter(model, "look")
    attached = attach_weights(model, "look", cells)
    assert attached.cells == adapters.cells
    torch.testing.assert_close(model(batch).video, expected, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(attached.parameters(), adapters.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_parts_of_one_scale_come_back_bit_by_bit(tiny_model: SandwichTransformer, disturbed: Disturbed) -> None:
    rules = (AdapterRule(rank=3, alpha=1.0), AdapterRule(rank=6, alpha=2.0, parts=("attention.v",)))
    adapters = disturbed(attach_adapter(tiny_model, "one", AdapterRecipe(rules=rules)))
    cells = split_changes(matrix_changes(tiny_model, adapters), adapters.cells, tiny_model.config)
    for _, adapter in adapters.items():
        for cell in adapter.cells:
            assert torch.equal(cells[cell].up, adapter.pair(cell).up) and cells[cell].alpha in (1.0, 2.0)


def test_a_change_without_parts_is_each_experts(
    tiny_model: SandwichTransformer, batch: PackedBatch, disturbed: Disturbed, recipes: dict[str, AdapterRecipe]
) -> None:
    """The record of the parts is lost: the output stays, and only what was changed is adapted."""
    adapters = disturbed(attach_adapter(tiny_model, "one", recipes["voice"]))
    expected = tiny_model(batch)
    changes = matrix_changes(tiny_model, adapters)
    detach_adapter(tiny_model, "one")
    cells: dict[Cell, object] = {}
    for linear, change in changes.items():
        _, _, layer, matrix = linear.split(".", 3)
        cells |= whole_matrix_cells(int(layer), matrix, change, tiny_model.config)
    assert {cell.expert for cell in cells} == {"audio"}
    attach_weights(tiny_model, "two", cells)
    torch.testing.assert_close(tiny_model(batch).audio, expected.audio, atol=1e-5, rtol=1e-5)


def test_rows_of_one_expert_are_meant_for_all(tiny_model: SandwichTransformer) -> None:
    generator = torch.Generator().manual_seed(0)
    down, up = torch.randn(2, 32, generator=generator), torch.randn(66, 2, generator=generator)
    cells = whole_matrix_cells(3, "attention.linear_qkv", MatrixChange(down=down, up=up, alpha=2.0), tiny_model.config)
    assert [cell.address for cell in cells] == [f"3.attention.linear_qkv.{e}" for e in ("video", "audio", "text")]
    attach_weights(tiny_model, "one", cells)
    product, x = tiny_model.block.layers[3].attention.linear_qkv, torch.randn(6, 32, generator=generator)
    change = product(x, (1, 2, 3)) - product.base(x, (1, 2, 3))
    torch.testing.assert_close(change, x @ down.T @ up.T, atol=1e-5, rtol=1e-4)


def test_a_layout_of_other_weights(adapted: tuple[SandwichTransformer, AdapterSet]) -> None:
    model, adapters = adapted
    changes, layout = matrix_changes(model, adapters), adapters.cells
    dropped = next(iter(layout))
    with pytest.raises(ValueError, match="does not fit its weights"):
        split_changes(changes, {cell: scale for cell, scale in layout.items() if cell != dropped}, model.config)
    del changes[dropped.linear]
    with pytest.raises(ValueError, match=f"{dropped.linear} has rank none"):
        split_changes(changes, layout, model.config)


@torch.no_grad()
def test_an_average_of_an_adapter_is_one_too(adapted: tuple[SandwichTransformer, AdapterSet]) -> None:
    """Half of the second factors as they were, half of three times those: twice as large a change."""
    model, adapters = adapted
    average = AveragedModel(adapters, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    average.update_parameters(adapters)
    for _, adapter in adapters.items():
        for cell in adapter.cells:
            adapter.pair(cell).up.mul_(3)
    average.update_parameters(adapters)
    assert isinstance(average.module, AdapterSet)
    changes = matrix_changes(model, average.module)
    for linear, adapter in adapters.items():
        assert torch.equal(changes[linear].down, matrix_changes(model, adapters)[linear].down)
        weight = adapted_linears(model)[linear].base.weight
        averaged, now = dict(average.module.items())[linear], adapter
        if not adapter.decomposed:
            torch.testing.assert_close(averaged.change(weight), now.change(weight) * 2 / 3, atol=1e-5, rtol=1e-5)
