"""The same weights have the same name however they lie, and others have another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hh_train.model.checkpoint import load_model, save_model
from hh_train.model.lora import AdapterRecipe, attach_adapter, base_fingerprint, folder_fingerprint
from hh_train.model.transformer import SandwichTransformer


def test_of_a_model_its_folder_its_bf16_copy_and_with_an_adapter(
    tiny_model: SandwichTransformer, tmp_path: Path, recipes: dict[str, AdapterRecipe]
) -> None:
    state, config = tiny_model.state_dict(), tiny_model.config
    one = save_model(state, config, tmp_path / "one")
    many = save_model(state, config, tmp_path / "many", bfloat16_products=True, max_file_size="20KB")
    expected = base_fingerprint(tiny_model)
    assert len(expected) == 32
    assert folder_fingerprint(one) == folder_fingerprint(many) == expected
    assert base_fingerprint(load_model(many, parameter_dtype="as_stored")) == expected
    attach_adapter(tiny_model, "one", recipes["parts"])
    assert base_fingerprint(tiny_model) == expected


@pytest.mark.parametrize(
    "name", ["block.layers.3.mlp.down_proj.weight", "final_norm_video.weight", "adapter.text_embedder.bias"]
)
def test_every_tensor_counts(tiny_model: SandwichTransformer, name: str) -> None:
    before = base_fingerprint(tiny_model)
    with torch.no_grad():
        tiny_model.get_parameter(name).mul_(1.1)
    assert base_fingerprint(tiny_model) != before


@pytest.mark.parametrize("expert", [0, 1, 2])
def test_every_expert_counts(tiny_model: SandwichTransformer, expert: int) -> None:
    before = base_fingerprint(tiny_model)
    with torch.no_grad():
        tiny_model.get_parameter("block.layers.0.attention.linear_proj.weight").chunk(3)[expert].mul_(1.1)
    assert base_fingerprint(tiny_model) != before


def test_weights_that_cannot_be_read(tiny_model: SandwichTransformer) -> None:
    with torch.device("meta"):
        model = SandwichTransformer(config=tiny_model.config)
    with pytest.raises(ValueError, match="take the fingerprint of its folder"):
        base_fingerprint(model)
    product = tiny_model.block.layers[1].mlp.down_proj
    del product.weight
    product.register_buffer("codes", torch.zeros(3, dtype=torch.int8))
    with pytest.raises(ValueError, match="quantized"):
        base_fingerprint(tiny_model)
