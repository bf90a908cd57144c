"""Adapters that do something, and what they do written out row by row."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hh_train.data.packing import pack
from hh_train.model.config import ModelConfig
from hh_train.model.lora import AdapterRecipe, AdapterRule, AdapterSet, attach_adapter
from hh_train.model.transformer import SandwichTransformer
from hh_train.types import LatentClip, PackedBatch

ALL_PARTS = ("attention.[qkv]", "attention.linear_proj", "mlp.*")
RECIPES = {
    "parts": AdapterRecipe(rules=(AdapterRule(rank=3, alpha=6.0), AdapterRule(rank=2, parts=("attention.gate",)))),
    "packed": AdapterRecipe(
        rules=(AdapterRule(rank=4, parts=("attention.linear_qkv", "mlp.up_gate_proj", "*.linear_proj", "*.down_proj")),)
    ),
    "voice": AdapterRecipe(rules=(AdapterRule(rank=2, alpha=3.0, experts=("audio",)),)),
    "decomposed": AdapterRecipe(
        rules=(AdapterRule(rank=3, alpha=1.5), AdapterRule(rank=2, parts=("mlp.up",), experts=("video", "shared"))),
        decomposed=True,
    ),
}


def disturb(adapters: AdapterSet, seed: int = 0, std: float = 0.1) -> AdapterSet:
    """Gives every weight a value of its own. Lengths stay near what they were."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapters.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(parameter * (1 + std * drawn) if name.endswith("magnitude") else 3 * std * drawn)
    return adapters


def written_out_rows(config: ModelConfig, layer: int, part: str) -> list[int]:
    """From the description of the released layout."""
    heads, kv = config.num_heads, config.num_query_groups * config.head_dim
    hidden = heads * config.head_dim
    if part == "mlp.up" and layer in config.gelu7_layers:
        return list(range(4 * hidden))
    inner = config.swiglu7_size
    whole = 4 * hidden if layer in config.gelu7_layers else 2 * inner
    return {
        "attention.q": list(range(hidden)),
        "attention.k": list(range(hidden, hidden + kv)),
        "attention.v": list(range(hidden + kv, hidden + 2 * kv)),
        "attention.gate": list(range(hidden + 2 * kv, hidden + 2 * kv + heads)),
        "attention.linear_qkv": list(range(hidden + 2 * kv + heads)),
        "attention.linear_proj": list(range(hidden)),
        "mlp.gate": [2 * i for i in range(inner)],
        "mlp.up": [2 * i + 1 for i in range(inner)],
        "mlp.up_gate_proj": list(range(whole)),
        "mlp.down_proj": list(range(hidden)),
    }[part]


def densely_changed(model: SandwichTransformer, adapters: AdapterSet, base: dict[str, Tensor]) -> dict[str, Tensor]:
    """The base's weights with every row changed on its own, in fp64."""
    changed = {name: tensor.clone() for name, tensor in base.items()}
    for linear, adapter in adapters.items():
        weight = changed[f"{linear}.weight"].double()
        for cell in adapter.cells:
            rows = written_out_rows(model.config, cell.layer, cell.part)
            expert = {"shared": 0, "video": 0, "audio": 1, "text": 2}[cell.expert]
            per_expert = len(weight) // (3 if cell.layer in model.config.mm_layers else 1)
            pair = adapter.pair(cell)
            for number, row in enumerate(rows):
                at = expert * per_expert + row
                vector = weight[at] + pair.alpha / pair.rank * (pair.up[number].double() @ pair.down.double())
                if pair.magnitude is not None:
                    vector = pair.magnitude[number].double() * vector / vector.norm()
                weight[at] = vector
        changed[f"{linear}.weight"] = weight.float().detach()
    return changed


@pytest.fixture
def batch(make_clip: Callable[..., LatentClip]) -> PackedBatch:
    return pack([make_clip("a"), make_clip("b", audio=9, seed=1)], patch=(1, 2, 2))


@pytest.fixture
def other_batch(make_clip: Callable[..., LatentClip]) -> PackedBatch:
    """Without audio."""
    return pack([make_clip("c", audio=None, seed=2)], patch=(1, 2, 2))


@pytest.fixture(params=list(RECIPES))
def recipe(request: pytest.FixtureRequest) -> AdapterRecipe:
    return RECIPES[request.param]


@pytest.fixture
def adapted(tiny_model: SandwichTransformer, recipe: AdapterRecipe) -> tuple[SandwichTransformer, AdapterSet]:
    return tiny_model, disturb(attach_adapter(tiny_model, "look", recipe))


@pytest.fixture
def disturbed() -> Callable[..., AdapterSet]:
    return disturb


@pytest.fixture
def recipes() -> dict[str, AdapterRecipe]:
    return RECIPES


@pytest.fixture
def dense() -> Callable[[SandwichTransformer, AdapterSet, dict[str, Tensor]], dict[str, Tensor]]:
    return densely_changed


@pytest.fixture
def plain(tiny_config: ModelConfig) -> Callable[[dict[str, Tensor]], SandwichTransformer]:
    """A transformer that was never adapted, of these weights."""

    def make(state: dict[str, Tensor]) -> SandwichTransformer:
        model = SandwichTransformer(config=tiny_config, compute_dtype="float32")
        model.load_state_dict(state)
        return model.requires_grad_(False)

    return make
