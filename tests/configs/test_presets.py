"""The model presets are what they say: counted on the meta device, key by key for the released model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import pytest
import torch

from hh_train.model.modality import ModalityLinear
from hh_train.model.transformer import SandwichTransformer
from hh_train.runtime.composition import compose_config
from hh_train.runtime.config import instantiate

PER_MODALITY = (0, 1, 2, 3, 36, 37, 38, 39)
GLOBAL_AT_1080P = {3, 7, 11, 15, 19, 23, 27, 31}


@cache
def preset(name: str) -> SandwichTransformer:
    config = compose_config("pretrain", [f"model={name}"])
    with torch.device("meta"):
        return instantiate(config.module.model)


def shapes(model: SandwichTransformer) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def count(model: SandwichTransformer, *prefixes: str) -> int:
    return sum(p.numel() for name, p in model.named_parameters() if name.startswith(prefixes or ""))


def active_in_blocks(model: SandwichTransformer) -> int:
    """Parameters that one token meets in the layers: one expert of those that there are."""
    total = 0
    for module in model.block.modules():
        own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        total += own // getattr(module, "num_experts", 1)
    return total


def layer(index: int) -> str:
    return f"block.layers.{index}."


def released_shapes() -> Mapping[str, tuple[int, ...]]:
    """The released checkpoint's table of keys (arXiv:2603.21986, base model)."""
    table: dict[str, tuple[int, ...]] = {"adapter.rope.bands": (16,)}
    for modality, channels in (("video", 192), ("text", 3584), ("audio", 64)):
        table[f"adapter.{modality}_embedder.weight"] = (5120, channels)
        table[f"adapter.{modality}_embedder.bias"] = (5120,)
    for index in range(40):
        experts = 3 if index in PER_MODALITY else 1
        up, down = (20480, 20480) if index < 4 else (27304, 13652)
        table |= {
            layer(index) + "attention.pre_norm.weight": (5120 * experts,),
            layer(index) + "attention.linear_qkv.weight": (7208 * experts, 5120),
            layer(index) + "attention.linear_proj.weight": (5120 * experts, 5120),
            layer(index) + "attention.q_norm.weight": (128 * experts,),
            layer(index) + "attention.k_norm.weight": (128 * experts,),
            layer(index) + "mlp.pre_norm.weight": (5120 * experts,),
            layer(index) + "mlp.up_gate_proj.weight": (up * experts, 5120),
            layer(index) + "mlp.down_proj.weight": (5120 * experts, down),
        }
    for modality, channels in (("video", 192), ("audio", 64)):
        table[f"final_norm_{modality}.weight"] = (5120,)
        table[f"final_linear_{modality}.weight"] = (channels, 5120)
    return table


@pytest.mark.parametrize("name", ["sandwich_15b", "sandwich_15b_sr_1080p"])
def test_released_keys_and_shapes(name: str) -> None:
    assert len(released_shapes()) == 331
    assert shapes(preset(name)) == dict(released_shapes())


def test_released_counts() -> None:
    model = preset("sandwich_15b")
    assert count(model) == 15_299_419_136
    assert len(list(model.parameters())) == 330
    assert active_in_blocks(model) == 10_913_064_960
    parts = {
        "adapter": count(model, "adapter."),
        "first": count(model, *(layer(i) for i in range(4))),
        "middle": count(model, *(layer(i) for i in range(4, 36))),
        "last": count(model, *(layer(i) for i in range(36, 40))),
        "final": count(model, "final_"),
    }
    assert parts == {
        "adapter": 19_676_160,
        "first": 3_274_140_672,
        "middle": 8_730_386_432,
        "last": 3_273_894_912,
        "final": 1_320_960,
    }
    assert [count(model, layer(i)) for i in (0, 4, 36)] == [818_535_168, 272_824_576, 818_473_728]


def test_released_dtypes_by_size() -> None:
    """As published: 15.28 B elements of matrix products in bf16, 21.6 M others (with the rotary bands) in fp32."""
    model = preset("sandwich_15b")
    products = sum(m.weight.numel() for m in model.block.modules() if isinstance(m, ModalityLinear))
    elements = sum(tensor.numel() for tensor in model.state_dict().values())
    assert (products, elements - products) == (15_277_834_240, 21_584_912)


def test_super_resolution_looks_near_in_32_layers_and_far_in_8() -> None:
    base, fine = preset("sandwich_15b").config, preset("sandwich_15b_sr_1080p").config
    assert (base.coordinates, fine.coordinates) == ("v2", "v1")
    assert base.local_attention_layers == ()
    assert set(range(40)) - set(fine.local_attention_layers) == GLOBAL_AT_1080P
    assert len(fine.local_attention_layers) == 32 and fine.local_attention_frames == 11


@pytest.mark.parametrize(("name", "parameters"), [("cpu", 7.4e6), ("sandwich_50m", 50e6), ("sandwich_1b3", 1.3e9)])
def test_smaller_presets_have_about_the_size_of_their_names(name: str, parameters: float) -> None:
    model = preset(name)
    assert count(model) == pytest.approx(parameters, rel=0.15)
    assert active_in_blocks(model) < count(model)
    assert {True, False} == {layer.per_modality for layer in model.layers}


@pytest.mark.parametrize("name", ["sandwich_50m", "sandwich_1b3"])
def test_smaller_presets_read_what_the_released_model_reads(name: str) -> None:
    def inputs(model: SandwichTransformer) -> tuple[object, ...]:
        config = model.config
        return config.video_in_channels, config.audio_in_channels, config.text_in_channels, config.patch

    assert inputs(preset(name)) == inputs(preset("sandwich_15b"))
