"""Adapter files by name: on their base, and from one key style into another."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hh_train.model.checkpoint import load_model, save_model
from hh_train.model.lora import (
    AdapterRecipe,
    AdapterRecord,
    AdapterSet,
    active_adapters,
    as_records,
    attach_adapter,
    attach_file,
    base_fingerprint,
    convert_adapter,
    load_with_adapters,
    merged_state_dict,
    read_adapter,
    write_adapter,
)
from hh_train.model.lora.attach import without_adapters
from hh_train.model.lora.keys import KEY_STYLES, KeyStyle
from hh_train.model.transformer import SandwichTransformer
from hh_train.model.weight_files import WeightFiles
from hh_train.types import PackedBatch, Prediction

Disturbed = Callable[..., AdapterSet]


def assert_same(ours: Prediction, theirs: Prediction) -> None:
    torch.testing.assert_close(ours.video, theirs.video, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.audio, theirs.audio, atol=1e-5, rtol=0)


@pytest.fixture
def base(tiny_model: SandwichTransformer, tmp_path: Path) -> Path:
    """A checkpoint folder of `tiny_model`."""
    with without_adapters(tiny_model):
        return save_model(tiny_model.state_dict(), tiny_model.config, tmp_path / "base")


def written(model: SandwichTransformer, adapters: AdapterSet, folder: Path, style: KeyStyle, name: str = "one") -> Path:
    path = folder / (name if style == "peft" else f"{name}.{style}.safetensors")
    record = AdapterRecord(base=base_fingerprint(model), trigger_word="ohwx man")
    return write_adapter(model, adapters, path, style=style, record=record)


@torch.no_grad()
def test_several_files_with_weights_on_their_base(
    tiny_model: SandwichTransformer, recipes: dict[str, AdapterRecipe], disturbed: Disturbed, base: Path,
    tmp_path: Path, batch: PackedBatch,
) -> None:  # fmt: skip
    one = disturbed(attach_adapter(tiny_model, "one", recipes["parts"]), 1)
    two = disturbed(attach_adapter(tiny_model, "two", recipes["decomposed"]), 2)
    files = [written(tiny_model, one, tmp_path, "kohya"), written(tiny_model, two, tmp_path, "peft", "two")]
    choices = [{"path": files[0], "weight": 0.8}, {"path": files[1]}]
    loaded = load_with_adapters(base, choices, compute_dtype="float32")
    with active_adapters(tiny_model, {"one": 0.8, "two": 1.0}):
        live = tiny_model(batch)
    assert_same(loaded(batch), live)
    unchanged = load_with_adapters(base, [], compute_dtype="float32")
    assert list(loaded.state_dict()) == list(unchanged.state_dict())
    assert (unchanged(batch).video - live.video).abs().max() > 1e-2
    assert as_records(choices) == [{"path": str(files[0]), "weight": 0.8}, {"path": str(files[1])}]


def test_another_base_is_refused_unless_any_will_do(
    tiny_model: SandwichTransformer, recipes: dict[str, AdapterRecipe], disturbed: Disturbed, base: Path, tmp_path: Path
) -> None:
    adapters = disturbed(attach_adapter(tiny_model, "one", recipes["parts"]))
    path = written(tiny_model, adapters, tmp_path, "comfyui")
    state = load_model(base).state_dict()
    state["final_norm_video.weight"] += 1
    other = save_model(state, tiny_model.config, tmp_path / "other")
    target = tmp_path / "new.safetensors"
    with pytest.raises(ValueError, match=r"trained on another base.*any_base: true"):
        load_with_adapters(other, [{"path": path}])
    with pytest.raises(ValueError, match="trained on another base"):
        convert_adapter({"path": path}, other, target, style="kohya")
    load_with_adapters(other, [{"path": path, "any_base": True}])
    convert_adapter({"path": path, "any_base": True}, other, target, style="kohya")


@pytest.mark.parametrize(("source", "target"), list(permutations(KEY_STYLES, 2)))
@torch.no_grad()
def test_from_every_style_into_every_style(
    source: KeyStyle, target: KeyStyle, tiny_model: SandwichTransformer, recipes: dict[str, AdapterRecipe],
    disturbed: Disturbed, base: Path, tmp_path: Path, batch: PackedBatch,
) -> None:  # fmt: skip
    """The file is the one that would have been written of the live adapter, and so is what it does."""
    adapters = disturbed(attach_adapter(tiny_model, "one", recipes["decomposed"]))
    path = written(tiny_model, adapters, tmp_path, source)
    wanted = written(tiny_model, adapters, tmp_path / "wanted", target)
    found = convert_adapter({"path": path}, base, tmp_path / "new" / wanted.name, style=target)
    ours, theirs = (
        load_file(one / "adapter_model.safetensors" if target == "peft" else one) for one in (found, wanted)
    )
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-5, rtol=1e-5, msg=name)
    other = load_model(base, compute_dtype="float32")
    record = attach_file(other, "read", found).record
    assert record.trigger_word == "ohwx man" and record.base is not None
    assert_same(other(batch), tiny_model(batch))


@torch.no_grad()
def test_a_file_of_another_tool_stays_as_small(
    tiny_model: SandwichTransformer, base: Path, tmp_path: Path, batch: PackedBatch
) -> None:
    """With the rows of a single expert it is written out for all three, and its rank is not multiplied."""
    generator = torch.Generator().manual_seed(0)
    linear = "block.layers.0.attention.linear_proj"
    tensors: dict[str, Tensor] = {
        f"lora_unet_{linear.replace('.', '_')}.lora_down.weight": torch.randn(4, 32, generator=generator),
        f"lora_unet_{linear.replace('.', '_')}.lora_up.weight": torch.randn(32, 4, generator=generator),
    }
    save_file(tensors, tmp_path / "foreign.safetensors")
    choice = {"path": tmp_path / "foreign.safetensors"}
    found = convert_adapter(choice, base, tmp_path / "new.safetensors", style="comfyui", bfloat16=True)
    new = load_file(found)
    assert new[f"diffusion_model.{linear}.lora_A.weight"].shape == (4, 32)
    assert new[f"diffusion_model.{linear}.lora_B.weight"].shape == (96, 4)
    assert new[f"diffusion_model.{linear}.lora_B.weight"].dtype == torch.bfloat16
    assert read_adapter(found, tiny_model.config).record == AdapterRecord()
    before = tiny_model(batch)
    attach_file(tiny_model, "foreign", tmp_path / "foreign.safetensors")
    live = tiny_model(batch)
    loaded = load_with_adapters(base, [{"path": found}], compute_dtype="float32")(batch)
    torch.testing.assert_close(loaded.video, live.video, atol=2e-2, rtol=0)
    assert (before.video - live.video).abs().max() > 0.1


@torch.no_grad()
def test_what_is_stored_in_parts_and_mixed_types_stays_so(
    tiny_model: SandwichTransformer, recipes: dict[str, AdapterRecipe], disturbed: Disturbed, tmp_path: Path
) -> None:
    """As the released base is: products in bf16, all else in fp32, several files, and no config."""
    released = save_model(
        tiny_model.state_dict(), tiny_model.config, tmp_path / "base", bfloat16_products=True, max_file_size="20KB"
    )
    tiny_model.load_state_dict(load_model(released).state_dict())
    adapters = disturbed(attach_adapter(tiny_model, "one", recipes["parts"]))
    path = written(tiny_model, adapters, tmp_path, "comfyui")
    merged = load_with_adapters(released, [{"path": path}], parameter_dtype="as_stored")
    again = save_model(merged.state_dict(), merged.config, tmp_path / "merged", max_file_size="20KB")
    before, after = WeightFiles.scan(released), WeightFiles.scan(again)
    assert len({stored.file for stored in after.tensors.values()}) > 3
    kinds = [{name: (one.shape, one.dtype) for name, one in files.tensors.items()} for files in (before, after)]
    assert kinds[0] == kinds[1] and {dtype for _, dtype in kinds[1].values()} == {torch.float32, torch.bfloat16}
    exact, rounded = merged_state_dict(tiny_model, {adapters: 1.0}), load_model(again).state_dict()
    for name, tensor in exact.items():
        torch.testing.assert_close(rounded[name], tensor, rtol=2**-8, atol=1e-6, msg=name)
    (released / "config.json").unlink()
    bare = load_with_adapters(released, [{"path": path}], parameter_dtype="as_stored").state_dict()
    assert all(torch.equal(bare[name], tensor) for name, tensor in merged.state_dict().items())


def test_what_is_wrong_with_an_adapter_is_told_before_weights_are_read(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hh_train.model.lora.chosen.load_model", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(ValueError, match="there is no adapter file"):
        load_with_adapters(base, [{"path": tmp_path / "none.safetensors"}])


def test_strength_stays(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got the weight 0.5 for .*keeps its strength"):
        convert_adapter({"path": tmp_path / "a", "weight": 0.5}, base, tmp_path / "b.safetensors", style="kohya")
