"""Adapters in, on, off and out again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

from hh_train.model.checkpoint import load_weights, save_model
from hh_train.model.lora import (
    AdaptedNetwork,
    AdapterRecipe,
    AdapterRule,
    AdapterSet,
    activate,
    active_adapters,
    adapter_names,
    adapter_set,
    attach_adapter,
    detach_adapter,
    initialize_adapter,
    without_adapters,
)
from hh_train.model.lora.layers import AdaptedLinear
from hh_train.model.transformer import SandwichTransformer
from hh_train.types import PackedBatch

SHARDED = Path(__file__).parent / "sharded_adapters.py"
Disturbed = Callable[..., AdapterSet]


def test_a_fresh_adapter_changes_nothing(
    tiny_model: SandwichTransformer, recipes: dict[str, AdapterRecipe], batch: PackedBatch
) -> None:
    before = tiny_model(batch)
    attach_adapter(tiny_model, "lora", recipes["parts"])
    assert torch.equal(tiny_model(batch).video, before.video)
    attach_adapter(tiny_model, "dora", recipes["decomposed"])
    torch.testing.assert_close(tiny_model(batch).video, before.video, atol=1e-5, rtol=1e-5)


def test_only_adapters_learn(
    adapted: tuple[SandwichTransformer, AdapterSet], recipe: AdapterRecipe, batch: PackedBatch
) -> None:
    model, adapters = adapted
    (model(batch).video.square().sum() + model(batch).audio.square().sum()).backward()
    with_gradient = {parameter for parameter in model.parameters() if parameter.grad is not None}
    assert with_gradient == {parameter for parameter in model.parameters() if parameter.requires_grad}
    assert with_gradient <= set(adapters.parameters())
    # The last layer's text is read by nobody.
    unread = [n for n, p in adapters.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert all("/3/" in name and "text" in name for name in unread), unread


def test_stacked_adapters_add_up(
    tiny_model: SandwichTransformer, recipes: dict[str, AdapterRecipe], disturbed: Disturbed
) -> None:
    """Of one product: the changes' weighted sum."""
    for seed, name in enumerate(("parts", "packed", "decomposed")):
        disturbed(attach_adapter(tiny_model, name, recipes[name]), seed)
    product, x, counts = tiny_model.block.layers[0].mlp.down_proj, torch.randn(7, 128), (3, 2, 2)
    changes = {}
    for name in recipes.keys() - {"voice"}:
        activate(tiny_model, {name: 1.0})
        changes[name] = product(x, counts) - product.base(x, counts)
        assert changes[name].abs().max() > 1e-2
    weights = {"parts": 0.5, "packed": -2.0, "decomposed": 1.5}
    with active_adapters(tiny_model, weights):
        together = product(x, counts) - product.base(x, counts)
    expected = sum(weight * changes[name] for name, weight in weights.items())
    torch.testing.assert_close(together, expected, atol=1e-5, rtol=1e-4)


def test_each_name_is_a_network_of_its_own(
    tiny_model: SandwichTransformer, recipes: dict[str, AdapterRecipe], batch: PackedBatch, disturbed: Disturbed
) -> None:
    with torch.no_grad():
        before = tiny_model(batch).video
        for seed, name in enumerate(("student", "critic")):
            disturbed(attach_adapter(tiny_model, name, recipes["packed"]), seed)
        teacher, student, critic = (AdaptedNetwork(tiny_model, w) for w in ({}, {"student": 1.0}, {"critic": 1.0}))
        outputs = [network(batch).video for network in (student, critic, teacher, student)]
    assert torch.equal(outputs[2], before) and torch.equal(outputs[3], outputs[0])
    assert (outputs[0] - outputs[1]).abs().max() > 1e-2 and (outputs[0] - before).abs().max() > 1e-2


def test_one_seed_draws_alike_whatever_else_is_adapted(tiny_model: SandwichTransformer) -> None:
    few = attach_adapter(tiny_model, "few", AdapterRecipe(rules=(AdapterRule(rank=4, layers="2"),)), seed=5)
    many = attach_adapter(tiny_model, "many", AdapterRecipe(rules=(AdapterRule(rank=4),)), seed=5)
    other = attach_adapter(tiny_model, "other", AdapterRecipe(rules=(AdapterRule(rank=4),)), seed=6)
    key = "linears.block/layers/2/attention/linear_qkv.pairs.q/shared.down"
    drawn = [dict(one.named_parameters())[key] for one in (few, many, other)]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    assert drawn[0].std().item() == pytest.approx(32**-0.5, rel=0.3)


def test_a_copy_is_a_model_of_its_own(
    adapted: tuple[SandwichTransformer, AdapterSet], batch: PackedBatch, disturbed: Disturbed
) -> None:
    model, _ = adapted
    expected = model(batch).video
    copied = deepcopy(model)
    assert torch.equal(copied(batch).video, expected)
    disturbed(adapter_set(copied, "look"), seed=7)
    activate(copied, {"look": 0.5})
    assert torch.equal(model(batch).video, expected)
    assert (copied(batch).video - expected).abs().max() > 1e-3


@torch.no_grad()
def test_detached_adapters_leave_no_trace(
    tiny_model: SandwichTransformer, recipes: dict[str, AdapterRecipe], batch: PackedBatch, disturbed: Disturbed
) -> None:
    before, keys = tiny_model(batch).video, list(tiny_model.state_dict())
    disturbed(attach_adapter(tiny_model, "one", recipes["parts"]))
    with_one = tiny_model(batch).video
    disturbed(attach_adapter(tiny_model, "two", recipes["voice"]))
    assert adapter_names(tiny_model) == ["one", "two"]
    detach_adapter(tiny_model, "two")
    assert torch.equal(tiny_model(batch).video, with_one)
    detach_adapter(tiny_model, "one")
    assert list(tiny_model.state_dict()) == keys and torch.equal(tiny_model(batch).video, before)
    assert not any(isinstance(module, AdaptedLinear) for module in tiny_model.modules())


def test_the_base_is_loaded_and_saved_under_its_own_names(
    adapted: tuple[SandwichTransformer, AdapterSet], batch: PackedBatch, tmp_path: Path
) -> None:
    model, _ = adapted
    expected = model(batch).video
    with without_adapters(model):
        folder = save_model(model.state_dict(), model.config, tmp_path / "base")
        for parameter in model.parameters():
            torch.nn.init.zeros_(parameter)
        load_weights(model, folder)
    assert torch.equal(model(batch).video, expected)


def test_state_of_the_adapters_alone(
    adapted: tuple[SandwichTransformer, AdapterSet], tiny_config: Any, batch: PackedBatch, recipe: AdapterRecipe
) -> None:
    model, adapters = adapted
    state = adapters.state_dict()
    assert sum(t.numel() for n, t in state.items() if "base_norm" not in n) == sum(
        parameter.numel() for parameter in adapters.parameters()
    )
    other = SandwichTransformer(config=tiny_config, compute_dtype="float32")
    with without_adapters(model):
        other.load_state_dict(model.state_dict())
    attach_adapter(other, "again", recipe, seed=3).load_state_dict(state)
    assert torch.equal(other(batch).video, model(batch).video)


@pytest.mark.parametrize("kind", ["parts", "decomposed"])
def test_a_model_without_memory_is_adapted_first_and_filled_later(
    kind: str, tiny_model: SandwichTransformer, recipes: dict[str, AdapterRecipe], batch: PackedBatch, tmp_path: Path
) -> None:
    folder = save_model(tiny_model.state_dict(), tiny_model.config, tmp_path / "base")
    with torch.device("meta"):
        model = SandwichTransformer(config=tiny_model.config, compute_dtype="float32")
    attach_adapter(model, "one", recipes[kind])
    model.to_empty(device="cpu")
    with without_adapters(model):
        load_weights(model, folder)
    initialize_adapter(model, "one", seed=4)
    wanted = attach_adapter(tiny_model, "one", recipes[kind], seed=4)
    assert torch.equal(model(batch).video, tiny_model(batch).video)
    for ours, theirs in zip(adapter_set(model, "one").parameters(), wanted.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_what_cannot_be_attached(tiny_model: SandwichTransformer, recipes: dict[str, AdapterRecipe]) -> None:
    with pytest.raises(ValueError, match="wanted letters, digits and underscores"):
        attach_adapter(tiny_model, "my.look", recipes["parts"])
    attach_adapter(tiny_model, "look", recipes["parts"])
    with pytest.raises(ValueError, match="has an adapter 'look' already"):
        attach_adapter(tiny_model, "look", recipes["parts"])
    with pytest.raises(ValueError, match=r"no adapters \['voice'\]; it has \['look'\]"):
        activate(tiny_model, {"voice": 1.0})
    with pytest.raises(ValueError, match="no adapter 'voice'"):
        detach_adapter(tiny_model, "voice")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("sharded") / "results.pt"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, str(SHARDED), str(path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = torch.load(path)
    return found


@pytest.mark.parametrize("kind", ["parts", "decomposed", "recomputed"])
def test_sharded_adapters_learn_the_same(sharded: dict[str, Any], kind: str) -> None:
    """The base in bf16 and frozen, adapters in fp32: output, gradients, and weights after a step."""
    whole, ours = sharded["whole"][kind], sharded["sharded"][kind]
    torch.testing.assert_close(ours["video"], whole["video"], atol=1e-5, rtol=1e-5)
    for what in ("gradients", "weights"):
        assert ours[what].keys() == whole[what].keys() and len(whole[what]) > 40
        for name, tensor in whole[what].items():
            torch.testing.assert_close(ours[what][name], tensor, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("kind", ["parts", "decomposed"])
@pytest.mark.parametrize("what", ["drawn", "read"])
def test_sharded_adapters_are_drawn_and_read_like_whole_ones(sharded: dict[str, Any], kind: str, what: str) -> None:
    ours, whole = sharded["sharded"][kind][what], sharded["whole"][kind][what]
    assert ours.keys() == whole.keys() and len(whole) > 40
    for name, tensor in whole.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-5, rtol=1e-4, msg=name)
    if what == "read":
        for name, tensor in sharded["whole"][kind]["weights"].items():
            torch.testing.assert_close(ours[name], tensor, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("kind", ["parts", "decomposed"])
def test_files_of_sharded_adapters_are_those_of_whole_ones(sharded: dict[str, Any], kind: str) -> None:
    ours, whole = sharded["sharded"][kind]["file"], sharded["whole"][kind]["file"]
    assert ours.keys() == whole.keys() and len(whole) > 30
    for name, tensor in whole.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-5, rtol=1e-4, msg=name)


def test_each_rank_holds_its_share(sharded: dict[str, Any]) -> None:
    assert sharded["share"] == pytest.approx(0.5, abs=0.05)


def test_a_sharded_model_gets_no_adapters_any_more(sharded: dict[str, Any]) -> None:
    assert "attach adapters first" in sharded["too_late"]
