"""Checkpoint folders: what is written is what is read, and every fault is told at once."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hh_train.model.attention import PerClipAttention
from hh_train.model.checkpoint import (
    inferred_config,
    is_matrix_product_weight,
    load_model,
    load_weights,
    read_config,
    save_model,
)
from hh_train.model.config import ModelConfig
from hh_train.model.transformer import SandwichTransformer
from hh_train.model.weight_files import StoredTensor, WeightFiles
from hh_train.runtime.composition import compose_config
from hh_train.runtime.config import instantiate

SHARDED = Path(__file__).parent / "sharded_load.py"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, byte by byte."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_round_trip(tiny_model: SandwichTransformer, tmp_path: Path) -> None:
    folder = save_model(tiny_model.state_dict(), tiny_model.config, tmp_path / "model")
    loaded = load_model(folder, compute_dtype="float32")
    assert loaded.config == tiny_model.config
    for name, tensor in tiny_model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name


def test_many_files_with_an_index(tiny_model: SandwichTransformer, tmp_path: Path) -> None:
    folder = save_model(tiny_model.state_dict(), tiny_model.config, tmp_path / "model", max_file_size="20KB")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 2
    loaded = load_model(folder).state_dict()
    for name, tensor in tiny_model.state_dict().items():
        assert torch.equal(loaded[name], tensor), name


@pytest.mark.parametrize("max_file_size", ["5GB", "20KB"])
@pytest.mark.parametrize("bfloat16_products", [False, True])
def test_what_was_read_is_written_byte_by_byte(
    tiny_model: SandwichTransformer, tmp_path: Path, bfloat16_products: bool, max_file_size: str
) -> None:
    first = save_model(
        tiny_model.state_dict(), tiny_model.config, tmp_path / "first", bfloat16_products=bfloat16_products,
        max_file_size=max_file_size,
    )  # fmt: skip
    loaded = load_model(first, parameter_dtype="as_stored")
    second = save_model(loaded.state_dict(), loaded.config, tmp_path / "second", max_file_size=max_file_size)
    assert contents(second) == contents(first)
    assert len(contents(first)) == 2 if max_file_size == "5GB" else len(contents(first)) > 5


def test_a_loaded_model_does_not_hang_on_its_files(tiny_model: SandwichTransformer, tmp_path: Path) -> None:
    folder = save_model(tiny_model.state_dict(), tiny_model.config, tmp_path / "model", bfloat16_products=True)
    loaded = load_model(folder, parameter_dtype="as_stored")
    before = {name: tensor.clone() for name, tensor in loaded.state_dict().items()}
    file = folder / "model.safetensors"
    file.write_bytes(b"\0" * file.stat().st_size)
    assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.state_dict().items())
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in loaded.parameters())


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
    held = load_model(folder, parameter_dtype="as_stored").state_dict()
    assert {name: tensor.dtype for name, tensor in held.items()} == dtypes
    as_fp32 = load_model(folder).state_dict()
    assert {tensor.dtype for tensor in as_fp32.values()} == {torch.float32}
    assert all(torch.equal(as_fp32[name], tensor.float()) for name, tensor in held.items())


@pytest.mark.parametrize("parameter_dtype", ["as_stored", "float32"])
def test_what_must_be_fp32_is_read_as_fp32_with_a_warning(
    tiny_model: SandwichTransformer, tmp_path: Path, parameter_dtype: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = save_model(tiny_model.state_dict(), tiny_model.config, tmp_path / "model")
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors")
    with caplog.at_level(logging.WARNING):
        loaded = load_model(folder, parameter_dtype=parameter_dtype)
    protected = [name for name in tensors if not is_matrix_product_weight(name)]
    assert f"stores {len(protected)} tensors in half precision that must be fp32" in caplog.text
    assert all(loaded.state_dict()[name].dtype == torch.float32 for name in protected)
    again = save_model(loaded.state_dict(), loaded.config, tmp_path / "again")
    caplog.clear()
    load_model(again)
    assert not caplog.text


def test_a_model_rounded_as_a_whole_is_written_with_fp32_norms(tiny_model: SandwichTransformer, tmp_path: Path) -> None:
    config, state = tiny_model.config, tiny_model.bfloat16().state_dict()
    stored = load_file(save_model(state, config, tmp_path / "model") / "model.safetensors")
    assert stored["final_norm_video.weight"].dtype == torch.float32
    assert stored["block.layers.1.mlp.down_proj.weight"].dtype == torch.bfloat16


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


def test_released_weights_have_no_config(
    tiny_model: SandwichTransformer, tiny_config: ModelConfig, tmp_path: Path
) -> None:
    folder = save_model(tiny_model.state_dict(), tiny_config, tmp_path / "model")
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"has no config\.json.*give the config"):
        load_model(folder)
    loaded = load_model(folder, config=tiny_config)
    assert torch.equal(loaded.final_linear_video.weight, tiny_model.final_linear_video.weight)


def test_how_to_run_is_handed_on(tiny_model: SandwichTransformer, tmp_path: Path) -> None:
    folder = save_model(tiny_model.state_dict(), tiny_model.config, tmp_path / "model")
    backend = PerClipAttention()
    loaded = load_model(folder, compute_dtype="float32", attention=backend, activation_checkpointing="full")
    assert loaded.attend is backend
    assert {layer.activation_checkpointing for layer in loaded.layers} == {"full"}
    assert {layer.compute_dtype for layer in loaded.layers} == {torch.float32}


def test_a_built_model_is_filled_in_place(tiny_model: SandwichTransformer, tmp_path: Path) -> None:
    folder = save_model(tiny_model.state_dict(), tiny_model.config, tmp_path / "model", bfloat16_products=True)
    model = SandwichTransformer(config=tiny_model.config)
    places = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    load_weights(model, folder)
    for name, parameter in model.named_parameters():
        assert parameter.data_ptr() == places[name] and parameter.dtype == torch.float32
        assert torch.equal(parameter, WeightFiles.scan(folder).read(name, dtype=torch.float32, device="cpu")), name


def test_a_model_without_memory_cannot_be_filled(tiny_model: SandwichTransformer, tmp_path: Path) -> None:
    folder = save_model(tiny_model.state_dict(), tiny_model.config, tmp_path / "model")
    with torch.device("meta"):
        model = SandwichTransformer(config=read_config(folder))
    with pytest.raises(ValueError, match=r"call model\.to_empty"):
        load_weights(model, folder)


def test_ranks_fill_their_shards_and_read_no_more(tiny_model: SandwichTransformer, tmp_path: Path) -> None:
    """Three ranks, so that no tensor is split evenly and some ranks have no row of a small one."""
    folder = save_model(
        tiny_model.state_dict(), tiny_model.config, tmp_path / "model", bfloat16_products=True, max_file_size="20KB"
    )
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    done = subprocess.run(
        [sys.executable, *launcher, str(SHARDED), str(folder), str(tmp_path / "results.pt")],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    results = torch.load(tmp_path / "results.pt")
    filled: dict[str, Tensor] = results["weights"]
    wanted = load_model(folder).state_dict()
    assert filled.keys() == wanted.keys()
    assert all(torch.equal(filled[name], tensor) for name, tensor in wanted.items())
    whole = sum(tensor.numel() for tensor in wanted.values())
    assert sum(results["elements_read"]) < 1.01 * whole  # the rotary bands alone are on every rank
    assert max(results["elements_read"]) < 0.4 * whole


def test_another_architecture_is_refused(tiny_model: SandwichTransformer, tmp_path: Path) -> None:
    folder = save_model(tiny_model.state_dict(), tiny_model.config, tmp_path / "model")
    (folder / "config.json").write_text(json.dumps({"hidden_size": 3, "num_attention_heads": 2}))
    with pytest.raises(ValueError, match=r"unknown fields.*num_attention_heads.*missing fields"):
        load_model(folder)


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no checkpoint folder"):
        load_model(tmp_path)


def test_shapes_say_what_the_architecture_is(
    tiny_model: SandwichTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a small model in a file, and of the released 15B model."""
    folder = save_model(tiny_model.state_dict(), tiny_model.config, tmp_path / "model")
    assert inferred_config(folder) == tiny_model.config
    with torch.device("meta"):
        released = instantiate(compose_config("pretrain", ["model=sandwich_15b"]).module.model)
    stored = {
        name: StoredTensor(tmp_path, tuple(tensor.shape), tensor.dtype)
        for name, tensor in released.state_dict().items()
    }
    files = WeightFiles(folder=tmp_path, tensors=stored, faults=(), lost=frozenset())
    monkeypatch.setattr(WeightFiles, "scan", lambda _: files)
    assert inferred_config(tmp_path) == released.config


def test_other_weights_have_no_architecture_of_ours(tmp_path: Path) -> None:
    save_file({"blocks.0.attn.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="not those of a sandwich transformer"):
        inferred_config(tmp_path)
