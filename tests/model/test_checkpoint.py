"""Checkpoint folders: what is written is what is read, and every fault is told at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hh_train.model.checkpoint import load_model, save_model, weight_files
from hh_train.model.transformer import SandwichTransformer


def test_round_trip(tiny_model: SandwichTransformer, tmp_path: Path) -> None:
    folder = save_model(tiny_model.state_dict(), tiny_model.config, tmp_path / "model")
    loaded = load_model(folder, compute_dtype="float32")
    assert loaded.config == tiny_model.config
    for name, tensor in tiny_model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_many_files_with_an_index(tiny_model: SandwichTransformer, tmp_path: Path) -> None:
    folder = save_model(tiny_model.state_dict(), tiny_model.config, tmp_path / "model", max_file_size="20KB")
    assert len(weight_files(folder)) > 2
    assert torch.equal(load_model(folder).adapter.rope.bands, tiny_model.adapter.rope.bands)


def test_views_of_longer_storages_are_written(tiny_model: SandwichTransformer, tmp_path: Path) -> None:
    """What gathering from ranks gives whose shares are not equally long."""
    state = tiny_model.state_dict()
    weight = state["final_linear_audio.weight"]
    state["final_linear_audio.weight"] = torch.cat([weight, torch.full((3, weight.shape[1]), 9.0)])[: len(weight)]
    loaded = load_model(save_model(state, tiny_model.config, tmp_path / "model"))
    assert torch.equal(loaded.final_linear_audio.weight, weight)


def test_bfloat16_products_keep_the_rest_in_fp32(tiny_model: SandwichTransformer, tmp_path: Path) -> None:
    folder = save_model(tiny_model.state_dict(), tiny_model.config, tmp_path / "model", bfloat16_products=True)
    dtypes = {name: tensor.dtype for name, tensor in load_file(folder / "model.safetensors").items()}
    assert dtypes["block.layers.1.mlp.down_proj.weight"] == torch.bfloat16
    for name in (
        "adapter.rope.bands",
        "adapter.video_embedder.bias",
        "final_linear_audio.weight",
        "final_norm_video.weight",
        "block.layers.0.attention.q_norm.weight",
    ):
        assert dtypes[name] == torch.float32, name
    assert load_model(folder, parameter_dtype="as_stored").block.layers[1].mlp.down_proj.weight.dtype == torch.bfloat16


def test_every_fault_is_listed(tiny_model: SandwichTransformer, tmp_path: Path) -> None:
    folder = save_model(tiny_model.state_dict(), tiny_model.config, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    del tensors["final_norm_audio.weight"]
    tensors["stranger"] = torch.zeros(2)
    tensors["adapter.rope.bands"] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ValueError) as caught:
        load_model(folder)
    for fault in (
        "missing: final_norm_audio.weight (32,)",
        "unexpected: stranger (2,)",
        "misshapen: adapter.rope.bands is (3,)",
    ):
        assert fault in str(caught.value)


def test_a_truncated_file_is_named(tiny_model: SandwichTransformer, tmp_path: Path) -> None:
    folder = save_model(tiny_model.state_dict(), tiny_model.config, tmp_path / "model")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"unreadable \(truncated\?\): model.safetensors"):
        load_model(folder)


def test_another_architecture_is_refused(tiny_model: SandwichTransformer, tmp_path: Path) -> None:
    folder = save_model(tiny_model.state_dict(), tiny_model.config, tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({"hidden_size": 3, "num_attention_heads": 2}))
    with pytest.raises(ValueError, match=r"unknown fields.*num_attention_heads.*missing fields"):
        load_model(folder)


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no checkpoint folder"):
        load_model(tmp_path)
