"""Adapter files: what is read back gives the output of the live adapter, here and in peft."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from hh_train.model.lora import (
    AdapterRecipe,
    AdapterRecord,
    AdapterRule,
    AdapterSet,
    attach_adapter,
    attach_file,
    base_fingerprint,
    merged_state_dict,
    read_adapter,
    without_adapters,
    write_adapter,
)
from hh_train.model.lora.attach import adapted_linears
from hh_train.model.lora.keys import KEY_STYLES, KeyStyle
from hh_train.model.transformer import SandwichTransformer
from hh_train.types import PackedBatch

Adapted = tuple[SandwichTransformer, AdapterSet]
RECORD = AdapterRecord(
    base="0123", trigger_word="ohwx man", config={"steps": 30, "rank": 3}, scores={"wer": 0.25, "offset": 1.5}
)


def path_of(style: KeyStyle, folder: Path) -> Path:
    return folder / "adapter" if style == "peft" else folder / "adapter.safetensors"


def file_of(path: Path) -> Path:
    return path / "adapter_model.safetensors" if path.is_dir() else path


def bare(model: SandwichTransformer) -> SandwichTransformer:
    """The base alone, as another process would load it."""
    other = SandwichTransformer(config=model.config, compute_dtype="float32")
    with without_adapters(model):
        other.load_state_dict(deepcopy(model.state_dict()))
    return other


@pytest.mark.parametrize("style", KEY_STYLES)
@torch.no_grad()
def test_read_back_it_gives_the_same_output(
    style: KeyStyle, adapted: Adapted, batch: PackedBatch, tmp_path: Path
) -> None:
    """The style is found out, and so are parts and experts."""
    model, adapters = adapted
    path = write_adapter(model, adapters, path_of(style, tmp_path), style=style, record=RECORD)
    other = bare(model)
    before = other(batch)
    found = attach_file(other, "read", path, base="0123")
    assert found.style == style and found.record == RECORD
    assert {cell: pair.scale for cell, pair in found.weights.items()} == adapters.cells
    ours, live = other(batch), model(batch)
    torch.testing.assert_close(ours.video, live.video, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.audio, live.audio, atol=1e-5, rtol=0)
    assert (before.audio - live.audio).abs().max() > 1e-2


@pytest.mark.parametrize("style", KEY_STYLES)
@torch.no_grad()
def test_without_its_record_a_file_gives_the_same_output(
    style: KeyStyle, adapted: Adapted, batch: PackedBatch, tmp_path: Path
) -> None:
    """As one that another tool wrote: alpha comes from the tensors, or from peft's configuration."""
    model, adapters = adapted
    path = write_adapter(model, adapters, path_of(style, tmp_path), style=style, record=RECORD)
    tensors = load_file(file_of(path))
    # Ranks of parts add up, in this small model to more than its width, which a file of another tool may not have.
    wide = any(
        "lora_A" in n or "lora_down" in n for n, t in tensors.items() if t.dim() == 2 and t.shape[0] > t.shape[1]
    )
    save_file(tensors, file_of(path))
    if wide:
        with pytest.raises(ValueError, match="is over that of the matrix"):
            read_adapter(path, model.config)
        return
    other = bare(model)
    found = attach_file(other, "read", path)
    assert found.record == AdapterRecord() and found.style == style
    torch.testing.assert_close(other(batch).video, model(batch).video, atol=1e-5, rtol=0)
    torch.testing.assert_close(other(batch).audio, model(batch).audio, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["parts", "voice", "decomposed"])
@torch.no_grad()
def test_peft_loads_it(
    kind: str, tiny_model: SandwichTransformer, recipes: dict[str, AdapterRecipe], tmp_path: Path,
    disturbed: Callable[..., AdapterSet],
) -> None:  # fmt: skip
    """Into linear layers of the stacked matrices, which is as far as its model of a linear layer goes: of their outputs
    each token takes the rows of its expert.
    """
    peft = pytest.importorskip("peft", reason="peft is not installed")
    adapters = disturbed(attach_adapter(tiny_model, "look", recipes[kind]))
    path = write_adapter(tiny_model, adapters, tmp_path / "adapter", style="peft")
    linears = adapted_linears(tiny_model)
    twin = nn.Module()
    for linear, adapted in linears.items():
        holder = twin
        *parents, name = linear.split(".")
        for parent in parents:
            if not hasattr(holder, parent):
                holder.add_module(parent, nn.Module())
            holder = holder.get_submodule(parent)
        rows, columns = adapted.base.weight.shape
        stacked = nn.Linear(columns, rows, bias=False)
        stacked.weight.copy_(adapted.base.weight)
        holder.add_module(name, stacked)
    loaded = peft.PeftModel.from_pretrained(twin, str(path)).get_base_model()
    generator = torch.Generator().manual_seed(0)
    for linear, adapted in linears.items():
        columns = adapted.base.weight.shape[1]
        x, counts = torch.randn(7, columns, generator=generator), (3, 2, 2)
        wanted, theirs = adapted(x, counts), loaded.get_submodule(linear)(x)
        if adapted.base.num_experts == 3:
            own = torch.tensor([0, 0, 0, 1, 1, 2, 2])
            theirs = theirs.unflatten(1, (3, -1))[torch.arange(7), own]
        torch.testing.assert_close(theirs, wanted, atol=1e-5, rtol=1e-5, msg=linear)
        assert (theirs - adapted.base(x, counts)).abs().max() > 1e-2
    assert len(linears) >= 8


@torch.no_grad()
def test_scales_of_peft(tiny_model: SandwichTransformer, batch: PackedBatch, tmp_path: Path) -> None:
    """alpha / rank of its configuration, of a pattern where one matches, or alpha / sqrt(rank)."""
    generator = torch.Generator().manual_seed(0)
    linears = [f"block.layers.{layer}.attention.linear_proj" for layer in (1, 2)]
    tensors = {
        f"base_model.model.{linear}.lora_{factor}.weight": torch.randn(*shape, generator=generator)
        for linear in linears
        for factor, shape in (("A", (4, 32)), ("B", (32, 4)))
    }
    folder = tmp_path / "peft"
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    alphas = {}
    for rslora in (False, True):
        config = {"lora_alpha": 2, "alpha_pattern": {"2.attention.linear_proj": 8}, "use_rslora": rslora}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        found = read_adapter(folder, tiny_model.config)
        alphas[rslora] = [pair.alpha for _, pair in sorted(found.weights.items())]
    assert alphas == {False: [2.0, 8.0], True: [4.0, 16.0]}
    (folder / "adapter_config.json").unlink()
    assert {pair.alpha for pair in read_adapter(folder, tiny_model.config).weights.values()} == {4.0}


def test_metadata(adapted: Adapted, tmp_path: Path) -> None:
    model, adapters = adapted
    record = replace(RECORD, base=base_fingerprint(model))
    path = write_adapter(model, adapters, tmp_path / "adapter.safetensors", record=record, bfloat16=True)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        dtypes = {file.get_tensor(key).dtype for key in file.keys() if "lora_" in key}  # noqa: SIM118
    assert dtypes == {torch.bfloat16}
    assert metadata["modelspec.trigger_phrase"] == "ohwx man" and metadata["hh_train.base"] == record.base
    stored = json.loads(metadata["hh_train.adapter"])
    assert stored["scores"] == {"wer": 0.25, "offset": 1.5} and stored["config"]["steps"] == 30
    assert stored["rank"] == int(metadata["ss_network_dim"]) == max(scale.rank for scale in adapters.cells.values())
    assert read_adapter(path, model.config).record == record
    assert [entry.name for entry in tmp_path.iterdir()] == ["adapter.safetensors"]


def test_a_wrong_base(adapted: Adapted, tmp_path: Path) -> None:
    model, adapters = adapted
    trained_on = base_fingerprint(model)
    path = write_adapter(model, adapters, tmp_path / "adapter.safetensors", record=AdapterRecord(base=trained_on))
    attach_file(bare(model), "right", path)
    other = bare(model)
    with torch.no_grad():
        other.get_parameter("block.layers.1.mlp.down_proj.weight").mul_(1.5)
    with pytest.raises(ValueError, match="trained on another base") as caught:
        attach_file(other, "wrong", path)
    assert trained_on in str(caught.value) and base_fingerprint(other) in str(caught.value)
    with pytest.raises(ValueError, match="this model is 4567"):
        attach_file(bare(model), "wrong", path, base="4567")
    attach_file(other, "allowed", path, any_base=True)


def test_a_base_that_cannot_be_compared_is_told(
    adapted: Adapted, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, adapters = adapted
    path = write_adapter(model, adapters, tmp_path / "adapter.safetensors", record=RECORD)
    with torch.device("meta"):
        unloaded = SandwichTransformer(config=model.config)
    attach_file(unloaded, "read", path)
    assert "trained on base 0123, which is not compared" in caplog.text


def test_a_base_of_another_size(adapted: Adapted, tmp_path: Path) -> None:
    model, adapters = adapted
    path = write_adapter(model, adapters, tmp_path / "adapter.safetensors")
    with pytest.raises(ValueError, match="does not fit the model; it is of a base of another size") as caught:
        read_adapter(path, replace(model.config, hidden_size=64))
    assert "the model's is " in str(caught.value)
    with pytest.raises(ValueError, match=r"block.layers.3.\S+: the model has 2 layers"):
        read_adapter(path, replace(model.config, num_layers=2, mm_layers=(0,)))


def test_broken_files(tiny_model: SandwichTransformer, tmp_path: Path) -> None:
    adapters = attach_adapter(tiny_model, "one", AdapterRecipe(rules=(AdapterRule(rank=2),)))
    path = write_adapter(tiny_model, adapters, tmp_path / "adapter.safetensors")
    with pytest.raises(ValueError, match="there is no adapter file"):
        read_adapter(tmp_path / "none.safetensors", tiny_model.config)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="is no safetensors file, or only a part of one"):
        read_adapter(path, tiny_model.config)
    down, up = "block.layers.1.mlp.down_proj.lora_A.weight", "block.layers.1.mlp.down_proj.lora_B.weight"
    save_file({down: torch.zeros(3, 84), up: torch.zeros(32, 4)}, path)
    with pytest.raises(ValueError, match=r"factors of \(3, 84\) and \(32, 4\) are no pair"):
        read_adapter(path, tiny_model.config)
    save_file({down: torch.zeros(33, 84), up: torch.zeros(32, 33)}, path)
    with pytest.raises(ValueError, match="its rank 33 is over that of the matrix of 32 x 84"):
        read_adapter(path, tiny_model.config)
    save_file({down: torch.zeros(3, 84), up: torch.zeros(32, 3)}, path, {"hh_train.cells": '{"1.mlp.down": [3, 3]}'})
    with pytest.raises(ValueError, match=r"hh_train.cells cannot be read: .*wanted LAYER.PART.EXPERT"):
        read_adapter(path, tiny_model.config)


DOWN, UP = "block.layers.1.mlp.down_proj.lora_A.weight", "block.layers.1.mlp.down_proj.lora_B.weight"


def written_by_another_tool(
    path: Path, changes: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> Path:
    generator = torch.Generator().manual_seed(0)
    good = {DOWN: torch.randn(3, 84, generator=generator), UP: torch.randn(32, 3, generator=generator)}
    save_file(good | changes, path, metadata)
    return path


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", [DOWN, UP, "block.layers.1.mlp.down_proj.alpha"])
def test_values_that_are_no_numbers(key: str, value: float, tiny_model: SandwichTransformer, tmp_path: Path) -> None:
    damaged = load_file(written_by_another_tool(tmp_path / "lora.safetensors", {})).get(key, torch.tensor(1.0))
    damaged.view(-1)[-1] = value
    path = written_by_another_tool(tmp_path / "lora.safetensors", {key: damaged})
    with pytest.raises(ValueError, match=r"values that are no numbers \(NaN or infinite\).*\n.*1.mlp.down_proj: "):
        attach_file(tiny_model, "read", path)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ({"block.layers.1.mlp.down_proj.alpha": torch.ones(3)}, r"alpha of \(3,\), which is one number"),
        ({"block.layers.1.mlp.down_proj.dora_scale": torch.ones(1, 84)}, r"lengths of \(1, 84\) for 32 rows"),
    ],
)
def test_tensors_of_another_shape(
    tensor: dict[str, torch.Tensor], message: str, tiny_model: SandwichTransformer, tmp_path: Path
) -> None:
    path = written_by_another_tool(tmp_path / "lora.safetensors", tensor)
    with pytest.raises(ValueError, match=message):
        read_adapter(path, tiny_model.config)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"hh_train.adapter": "{"}, "hh_train.adapter is no JSON"),
        ({"hh_train.adapter": "3"}, "hh_train.adapter is int, wanted a mapping"),
        ({"hh_train.cells": '{"1.mlp.down_proj.shared": [0, 1]}'}, "ranks below 1: 1.mlp.down_proj.shared"),
        ({"hh_train.cells": '{"1.mlp.down_proj.shared": [33, 1]}'}, "rank 33 is over that of mlp.down_proj"),
        ({"hh_train.cells": '{"1.mlp.down_proj.shared": [2, 1]}'}, "rank 3, its parts have 2"),
        ({"hh_train.cells": '{"1.mlp.down_proj.video": [3, 1]}'}, "the model has no 1.mlp.down_proj.video"),
        ({"lora_adapter_metadata": "[]"}, "lora_adapter_metadata is list, wanted a mapping"),
    ],
)
def test_metadata_that_cannot_be(
    metadata: dict[str, str], message: str, tiny_model: SandwichTransformer, tmp_path: Path
) -> None:
    path = written_by_another_tool(tmp_path / "lora.safetensors", {}, metadata)
    with pytest.raises(ValueError, match=message):
        read_adapter(path, tiny_model.config)


def test_a_file_of_another_model_is_told_with_what_it_says_of_itself(
    tiny_model: SandwichTransformer, tmp_path: Path
) -> None:
    path = tmp_path / "lora.safetensors"
    tensors = {"lora_unet_blocks_0_self_attn_q.lora_down.weight": torch.zeros(1)}
    save_file(tensors, path, {"modelspec.architecture": "wan2.1/lora"})
    with pytest.raises(ValueError, match=r"these are keys of Wan \(the file says of itself: wan2.1/lora\)"):
        read_adapter(path, tiny_model.config)


def test_folders_and_other_files(tiny_model: SandwichTransformer, tmp_path: Path) -> None:
    written_by_another_tool(tmp_path / "comfyui.safetensors", {})
    with pytest.raises(ValueError, match=r"beside it are comfyui\.safetensors: name one"):
        read_adapter(tmp_path, tiny_model.config)
    torch.save({DOWN: torch.zeros(3, 84)}, tmp_path / "lora.pt")
    with pytest.raises(ValueError, match="is no safetensors file"):
        read_adapter(tmp_path / "lora.pt", tiny_model.config)
    (tmp_path / "empty.safetensors").touch()
    with pytest.raises(ValueError, match="is no safetensors file"):
        read_adapter(tmp_path / "empty.safetensors", tiny_model.config)


def test_scales_of_diffusers(tiny_model: SandwichTransformer, tmp_path: Path) -> None:
    """It keeps peft's configuration in the metadata, under the component's name."""
    stored = {"transformer.r": 3, "transformer.lora_alpha": 6, "transformer.alpha_pattern": {}}
    tensors = {f"transformer.{DOWN}": torch.ones(3, 84), f"transformer.{UP}": torch.ones(32, 3)}
    save_file(tensors, tmp_path / "lora.safetensors", {"lora_adapter_metadata": json.dumps(stored)})
    found = read_adapter(tmp_path / "lora.safetensors", tiny_model.config)
    assert found.style == "diffusers"
    assert [pair.alpha for pair in found.weights.values()] == [6.0]


@pytest.mark.parametrize("style", ["diffusers", "comfyui", "kohya"])
@pytest.mark.parametrize("with_alpha", [False, True])
@pytest.mark.parametrize("decomposed", [False, True])
@torch.no_grad()
def test_files_of_other_tools_change_whole_matrices(
    style: str, with_alpha: bool, decomposed: bool, tiny_model: SandwichTransformer, tmp_path: Path, batch: PackedBatch,
    plain: Callable[[dict[str, torch.Tensor]], SandwichTransformer],
) -> None:  # fmt: skip
    """One rank over a packed matrix, or over the stack of three experts; alpha may be missing, which means the rank."""
    generator = torch.Generator().manual_seed(0)
    state = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    tensors = {}
    for linear in (
        "block.layers.1.attention.linear_qkv",
        "block.layers.0.mlp.up_gate_proj",
        "block.layers.3.attention.linear_proj",
    ):
        weight = state[f"{linear}.weight"]
        down = torch.randn(4, weight.shape[1], generator=generator) / 8
        up = torch.randn(weight.shape[0], 4, generator=generator) / 8
        prefix = {
            "diffusers": f"transformer.{linear}",
            "comfyui": f"diffusion_model.{linear}",
            "kohya": "lora_unet_" + linear.replace(".", "_"),
        }[style]
        names = ("lora_down", "lora_up") if style == "kohya" else ("lora_A", "lora_B")
        tensors |= {f"{prefix}.{names[0]}.weight": down.half(), f"{prefix}.{names[1]}.weight": up.half()}
        if with_alpha:
            tensors[f"{prefix}.alpha"] = torch.tensor(2.0)
        changed = weight + (0.5 if with_alpha else 1.0) * up.half().float() @ down.half().float()
        if decomposed:
            lengths = 0.5 + torch.rand(weight.shape[0], 1, generator=generator)
            tensors[f"{prefix}.dora_scale"] = lengths
            changed = lengths / (weight if style == "comfyui" else changed).norm(dim=1, keepdim=True) * changed
        state[f"{linear}.weight"] = changed
    save_file(tensors, tmp_path / "lora.safetensors")
    found = attach_file(tiny_model, "read", tmp_path / "lora.safetensors")
    assert found.style == style and found.record == AdapterRecord()
    wanted, ours = plain(state)(batch), tiny_model(batch)
    torch.testing.assert_close(ours.video, wanted.video, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.audio, wanted.audio, atol=1e-5, rtol=1e-5)


def test_paths_go_with_styles(adapted: Adapted, tmp_path: Path) -> None:
    model, adapters = adapted
    with pytest.raises(ValueError, match="for the style peft, wanted a folder"):
        write_adapter(model, adapters, tmp_path / "a.safetensors", style="peft")
    with pytest.raises(ValueError, match=r"for the style kohya, wanted a file that ends in \.safetensors"):
        write_adapter(model, adapters, tmp_path / "a", style="kohya")


@pytest.mark.parametrize("style", ["comfyui", "kohya"])
@torch.no_grad()
def test_what_other_tools_make_of_it(style: KeyStyle, adapted: Adapted, tmp_path: Path) -> None:
    """W + alpha / rank up down is the merged weight of every matrix; times dora_scale over the lengths of rows: of W's
    in ComfyUI, of the sum's in LyCORIS.
    """
    model, adapters = adapted
    tensors = load_file(write_adapter(model, adapters, path_of(style, tmp_path), style=style))
    merged = merged_state_dict(model, {adapters: 1.0})
    with without_adapters(model):
        base = dict(model.state_dict())
    down, up = ("lora_A", "lora_B") if style == "comfyui" else ("lora_down", "lora_up")
    for linear, _ in adapters.items():
        module = f"diffusion_model.{linear}" if style == "comfyui" else "lora_unet_" + linear.replace(".", "_")
        first, second = tensors.pop(f"{module}.{down}.weight"), tensors.pop(f"{module}.{up}.weight")
        weight = base[f"{linear}.weight"]
        changed = weight + tensors.pop(f"{module}.alpha") / len(first) * second @ first
        if adapters.decomposed:
            lengths = (weight if style == "comfyui" else changed).norm(dim=1, keepdim=True)
            changed *= tensors.pop(f"{module}.dora_scale") / lengths
        torch.testing.assert_close(changed, merged[f"{linear}.weight"], atol=1e-5, rtol=1e-5)
        assert (changed - weight).abs().max() > 1e-2
    assert not tensors
