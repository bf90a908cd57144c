"""Freezing a transformer in place or from files, and training through it, whole and sharded."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hh_train.data.packing import pack
from hh_train.model.checkpoint import save_model
from hh_train.model.config import ModelConfig
from hh_train.model.lora.attach import attach_adapter
from hh_train.model.lora.targets import AdapterRecipe, AdapterRule
from hh_train.model.quantized.formats import Float8Format, Int8Format, NF4Format, PlainFormat, WeightFormat
from hh_train.model.quantized.freeze import load_frozen, offload_frozen, quantize_frozen
from hh_train.model.quantized.linear import FrozenLinear
from hh_train.model.transformer import SandwichTransformer
from hh_train.types import LatentClip, PackedBatch

FORMATS = [PlainFormat(), Float8Format(), Int8Format(), NF4Format()]
SHARDED = Path(__file__).parent / "sharded_frozen.py"


@pytest.fixture
def batch(make_clip: Callable[..., LatentClip]) -> PackedBatch:
    return pack([make_clip("a"), make_clip("b", video=(3, 4, 2), audio=9, text=4, seed=1)], patch=(1, 2, 2))


def decoded(model: SandwichTransformer) -> dict[str, Tensor]:
    """Weights by the released names."""
    found = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    frozen = {name: module for name, module in model.named_modules() if isinstance(module, FrozenLinear)}
    rest = {name: tensor for name, tensor in found.items() if name.rsplit(".", 1)[0] not in frozen}
    return rest | {f"{name}.weight": module.weight for name, module in frozen.items()}


def gradient_of_video(model: SandwichTransformer, batch: PackedBatch) -> Tensor:
    video = batch.video.clone().requires_grad_()
    prediction = model(replace(batch, video=video))
    (prediction.video.square().mean() + prediction.audio.square().mean()).backward()
    assert video.grad is not None
    return video.grad


@pytest.mark.parametrize("kind", ["none", "selective", "full"])
@pytest.mark.parametrize("weight_format", FORMATS, ids=lambda one: one.name)
def test_a_frozen_model_is_one_with_its_decoded_weights(
    weight_format: WeightFormat, kind: str, tiny_model: SandwichTransformer, batch: PackedBatch
) -> None:
    frozen = SandwichTransformer(config=tiny_model.config, compute_dtype="float32", activation_checkpointing=kind)
    frozen.load_state_dict(tiny_model.state_dict())
    quantize_frozen(frozen, weight_format)
    original = tiny_model(batch)
    tiny_model.load_state_dict(decoded(frozen))
    found, expected = frozen(batch), tiny_model(batch)
    torch.testing.assert_close(found.video, expected.video, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.audio, expected.audio, atol=1e-5, rtol=1e-5)
    assert 0 < (found.video - original.video).norm() < 0.5 * original.video.norm()
    torch.testing.assert_close(
        gradient_of_video(frozen, batch), gradient_of_video(tiny_model, batch), atol=1e-6, rtol=1e-4
    )


def test_only_matrix_products_change(tiny_model: SandwichTransformer) -> None:
    before = copy.deepcopy(tiny_model.state_dict())
    assert quantize_frozen(tiny_model, NF4Format()) is tiny_model
    after = decoded(tiny_model)
    assert set(after) == set(before)
    changed = {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}
    assert len(changed) == 4 * len(tiny_model.layers)
    assert all(name.endswith(("qkv.weight", "_proj.weight")) for name in changed)
    assert not any(parameter.requires_grad for parameter in tiny_model.parameters())


def test_what_is_frozen_is_not_frozen_again(tiny_model: SandwichTransformer) -> None:
    quantize_frozen(tiny_model, Int8Format())
    with pytest.raises(ValueError, match="quantize it once"):
        quantize_frozen(tiny_model, NF4Format())


@pytest.mark.parametrize("max_file_size", ["5GB", "20KB"])
@pytest.mark.parametrize("weight_format", FORMATS, ids=lambda one: one.name)
def test_loading_is_freezing_what_is_loaded(
    weight_format: WeightFormat, max_file_size: str, tiny_model: SandwichTransformer, tmp_path: Path, batch: PackedBatch
) -> None:
    folder = save_model(tiny_model.state_dict(), tiny_model.config, tmp_path / "model", max_file_size=max_file_size)
    loaded = load_frozen(folder, weight_format=weight_format, compute_dtype="float32")
    quantize_frozen(tiny_model, weight_format)
    assert loaded.state_dict().keys() == tiny_model.state_dict().keys()
    for name, tensor in tiny_model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name].float(), tensor.float()), name
    assert torch.equal(loaded(batch).video, tiny_model(batch).video)
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in loaded.parameters())


def test_loading_never_holds_the_weights_whole(tmp_path: Path, memory_events: Callable[..., Any]) -> None:
    """The encoded weights, some rows, and one file at a time, which is only mapped."""
    config = ModelConfig(
        num_layers=4, hidden_size=512, head_dim=64, num_query_groups=2, video_in_channels=12, audio_in_channels=5,
        text_in_channels=7, mm_layers=(0, 3), gelu7_layers=(0,),
    )  # fmt: skip
    model = SandwichTransformer(config=config)
    folder = save_model(model.state_dict(), config, tmp_path / "model", max_file_size="10MB")
    whole = sum(parameter.nbytes for parameter in model.parameters())
    del model
    levels, _ = memory_events(lambda: load_frozen(folder, weight_format=NF4Format()))
    assert whole > 50e6
    assert max(levels) < 0.5 * whole


def test_other_weights_are_refused(tiny_model: SandwichTransformer, tiny_config: ModelConfig, tmp_path: Path) -> None:
    folder = save_model(tiny_model.state_dict(), tiny_config, tmp_path / "model")
    with pytest.raises(ValueError, match=r"unexpected: block\.layers\.3"):
        load_frozen(folder, weight_format=NF4Format(), config=replace(tiny_config, num_layers=3, mm_layers=(0,)))


@pytest.mark.parametrize("layers", [None, [0, 2]])
def test_offloading(
    layers: list[int] | None, tiny_model: SandwichTransformer, tmp_path: Path, batch: PackedBatch
) -> None:
    folder = save_model(tiny_model.state_dict(), tiny_model.config, tmp_path / "model")
    expected = load_frozen(folder, weight_format=Int8Format())(batch)
    model = load_frozen(folder, weight_format=Int8Format(), offload=layers is None)
    if layers is not None:
        offload_frozen(model, layers=layers)
    assert torch.equal(model(batch).video, expected.video)
    held = {name.split(".")[2] for name, m in model.named_modules() if isinstance(m, FrozenLinear) and m.is_offloaded}
    assert held == {str(index) for index in (layers or range(4))}
    moved = copy.deepcopy(model).to("meta")
    stayed = {name.split(".")[2] for name, parameter in moved.named_parameters() if not parameter.is_meta}
    assert stayed == held


def test_nothing_to_offload(tiny_model: SandwichTransformer) -> None:
    with pytest.raises(ValueError, match="freeze the model first"):
        offload_frozen(tiny_model)
    quantize_frozen(tiny_model, Int8Format())
    with pytest.raises(ValueError, match=r"layers \[4\]"):
        offload_frozen(tiny_model, layers=[0, 4])


@pytest.mark.parametrize(
    ("weight_format", "kind", "decomposed", "offload"),
    [
        (PlainFormat(), "none", False, False),
        (Float8Format(), "none", False, False),
        (Int8Format(), "full", True, True),
        (NF4Format(), "none", False, True),
        (NF4Format(), "full", True, False),
    ],
    ids=["bfloat16", "float8", "int8, recomputed, DoRA, offloaded", "nf4, offloaded", "nf4, recomputed, DoRA"],
)
def test_adapters_learn_on_frozen_weights(
    weight_format: WeightFormat, kind: str, decomposed: bool, offload: bool, tiny_model: SandwichTransformer,
    batch: PackedBatch,
) -> None:  # fmt: skip
    """And learn what they would on the decoded ones."""
    frozen = SandwichTransformer(config=tiny_model.config, compute_dtype="float32", activation_checkpointing=kind)
    frozen.load_state_dict(tiny_model.state_dict())
    quantize_frozen(frozen, weight_format)
    tiny_model.load_state_dict(decoded(frozen))
    if offload:
        offload_frozen(frozen)
    recipe = AdapterRecipe(rules=(AdapterRule(rank=1, parts=("attention.q", "mlp.*")),), decomposed=decomposed)
    gradients = []
    for model in (frozen, tiny_model):
        adapters = attach_adapter(model, "trained", recipe, seed=0)
        for parameter in adapters.parameters():
            drawn = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            parameter.data.add_(drawn, alpha=0.1)
        prediction = model(batch)
        (prediction.video.square().mean() + prediction.audio.square().mean()).backward()
        gradients.append({name: parameter.grad for name, parameter in adapters.named_parameters()})
    assert sum(bool(gradient.any()) for gradient in gradients[0].values()) > 0.8 * len(gradients[0])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("weight_format", FORMATS, ids=lambda one: one.name)
def test_the_loss_falls_on_frozen_weights(
    weight_format: WeightFormat, tiny_model: SandwichTransformer, batch: PackedBatch
) -> None:
    """Towards what another adapter makes of the original weights: past the error of the frozen ones, which stay."""
    recipe = AdapterRecipe(rules=(AdapterRule(rank=4),))
    frozen = quantize_frozen(copy.deepcopy(tiny_model), weight_format)
    wanted = attach_adapter(tiny_model, "wanted", recipe, seed=1)
    with torch.no_grad():
        for parameter in wanted.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())) / 8)
        target = tiny_model(batch).video
    before = {name: tensor.clone() for name, tensor in frozen.state_dict().items()}
    adapters = attach_adapter(frozen, "trained", recipe)
    optimizer = torch.optim.AdamW(adapters.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = (frozen(batch).video - target).square().mean() / target.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-5:]) < 0.5 * losses[0], losses
    kept = {
        name.replace(".base.", "."): tensor for name, tensor in frozen.state_dict().items() if "adapters" not in name
    }
    assert all(torch.equal(kept[name], tensor) for name, tensor in before.items())


def test_several_ranks(tmp_path: Path) -> None:
    """Two ranks hold half of the encoded weights each, or copies: they train the adapter that one process trains."""
    path = tmp_path / "results.pt"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, str(SHARDED), str(path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for name, result in torch.load(path).items():
        assert result["share"] == pytest.approx(0.5, abs=0.02), name
        for several in ("sharded", "copies"):
            torch.testing.assert_close(result[several], result["whole"], atol=1e-5, rtol=1e-4)
        learning = [name for name, gradient in result["whole"].items() if gradient.any()]
        assert len(learning) > 0.8 * len(result["whole"])
