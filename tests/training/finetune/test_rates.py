"""Rates by name and depth, and what is frozen."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hh_train.model.transformer import SandwichTransformer
from hh_train.training.finetune.rates import LayerwiseRates
from hh_train.training.optim import AdamWRecipe


def rates_of(model: SandwichTransformer, rates: LayerwiseRates) -> dict[str, float]:
    """The share of each parameter that learns."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)]: group.share for group in rates.apply(model) for parameter in group.parameters}


def test_everything_learns_alike_by_default(tiny_model: SandwichTransformer) -> None:
    found = rates_of(tiny_model, LayerwiseRates())
    assert set(found) == {name for name, _ in tiny_model.named_parameters()}
    assert set(found.values()) == {1.0}


def test_a_layer_learns_at_a_share_of_the_next_ones_rate(tiny_model: SandwichTransformer) -> None:
    found = rates_of(tiny_model, LayerwiseRates(depth_decay=0.5))
    for index, share in enumerate((0.125, 0.25, 0.5, 1.0)):
        assert found[f"block.layers.{index}.mlp.up_gate_proj.weight"] == share
    assert found["adapter.video_embedder.weight"] == 0.0625
    assert found["final_linear_audio.weight"] == found["final_norm_video.weight"] == 1.0


def test_the_last_pattern_counts_and_depth_multiplies(tiny_model: SandwichTransformer) -> None:
    shares = {"*": 0.0, "block.layers.[23].*": 0.5, "*.mlp.*": 0.1}
    found = rates_of(tiny_model, LayerwiseRates(shares=shares, depth_decay=0.5))
    assert found["block.layers.3.attention.linear_qkv.weight"] == 0.5
    assert found["block.layers.2.attention.linear_qkv.weight"] == 0.25
    assert found["block.layers.3.mlp.pre_norm.weight"] == pytest.approx(0.1)
    assert found["block.layers.0.mlp.down_proj.weight"] == pytest.approx(0.1 / 8)
    assert "block.layers.1.attention.linear_qkv.weight" not in found
    frozen = {name for name, parameter in tiny_model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in tiny_model.named_parameters()} - set(found)


def test_what_was_frozen_stays_frozen(tiny_model: SandwichTransformer) -> None:
    tiny_model.adapter.requires_grad_(False)
    assert not any(name.startswith("adapter") for name in rates_of(tiny_model, LayerwiseRates()))


def test_steps_are_as_large_as_the_rates(tiny_model: SandwichTransformer) -> None:
    """AdamW's first step is the learning rate, whatever the gradient."""
    before = {name: parameter.detach().clone() for name, parameter in tiny_model.named_parameters()}
    rated = LayerwiseRates(shares={"adapter.*": 0.0, "block.layers.0.*": 0.1}).apply(tiny_model)
    optimizer, _ = AdamWRecipe(learning_rate=0.01).build_rated(rated, num_steps=1)
    for parameter in tiny_model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in tiny_model.named_parameters():
        share = 0.0 if name.startswith("adapter") else 0.1 if ".0." in name else 1.0
        torch.testing.assert_close(before[name] - parameter, torch.full_like(parameter, 0.01 * share))


def test_lines_for_the_reader(tiny_model: SandwichTransformer) -> None:
    rates = LayerwiseRates(shares={"adapter.*": 0.0, "final*": 0.25})
    rates.apply(tiny_model)
    lines = list(rates.describe(tiny_model))
    frozen = sum(parameter.numel() for parameter in tiny_model.adapter.parameters())
    assert lines[-1] == f"{frozen:,} parameters are frozen"
    assert lines[1].endswith("learn at 0.25 of the rate")
    counted = sum(int(line.split()[0].replace(",", "")) for line in lines)
    assert counted == sum(parameter.numel() for parameter in tiny_model.parameters())


def test_a_pattern_that_matches_nothing_names_near_ones(tiny_model: SandwichTransformer) -> None:
    rates = LayerwiseRates(shares={"final_linear_vidoe.weight": 0.0, "block.layers.9.*": 0.0})
    with pytest.raises(ValueError, match=r"near: final_linear_video.weight.*block.layers.9"):
        rates.apply(tiny_model)


def test_nothing_left_to_train() -> None:
    with pytest.raises(ValueError, match="nothing is left to train: all 2 parameters"):
        LayerwiseRates(shares={"*": 0.0}).apply(nn.Linear(2, 2))


@pytest.mark.parametrize("settings", [{"shares": {"*": -0.1}}, {"depth_decay": 0.0}, {"depth_decay": 1.5}])
def test_rates_that_make_no_sense(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="wanted shares"):
        LayerwiseRates(**settings)
