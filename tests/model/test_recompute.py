"""Activation checkpointing: the same numbers from less that is kept."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from hh_train.data.packing import pack
from hh_train.model.config import ModelConfig
from hh_train.model.recompute import recomputed, recomputed_between_products
from hh_train.model.transformer import SandwichTransformer
from hh_train.types import LatentClip, PackedBatch

PATCH = (1, 2, 2)
KINDS = ("none", "selective", "full")


def make_model(config: ModelConfig, kind: str, compute_dtype: str) -> SandwichTransformer:
    torch.manual_seed(0)
    model = SandwichTransformer(config=config, compute_dtype=compute_dtype, activation_checkpointing=kind)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def loss_of(model: SandwichTransformer, batch: PackedBatch) -> Tensor:
    prediction = model(batch)
    return prediction.video.square().mean() + prediction.audio.square().mean()


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("local", [(), (1, 2)])
def test_gradients_are_those_without_it(
    tiny_config: ModelConfig, make_clip: Callable[..., LatentClip], compute_dtype: str, local: tuple[int, ...]
) -> None:
    config = replace(tiny_config, local_attention_layers=local, local_attention_frames=1)
    batch = pack([make_clip("a", video=(4, 4, 2), audio=13), make_clip("b", audio=None, seed=1)], patch=PATCH)
    gradients = {}
    for kind in KINDS:
        model = make_model(config, kind, compute_dtype)
        loss_of(model, batch).backward()
        gradients[kind] = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient.abs().max() > 0 for gradient in gradients["none"].values())
    for kind in KINDS[1:]:
        for name, gradient in gradients["none"].items():
            assert torch.equal(gradients[kind][name], gradient), f"{kind}: {name}"


def test_each_kind_keeps_less_than_the_one_before(
    tiny_config: ModelConfig, make_clip: Callable[..., LatentClip], allocations: Callable[..., object]
) -> None:
    """full keeps little more than the residual stream before each layer."""
    config = replace(tiny_config, hidden_size=128, head_dim=32)
    batch = pack([make_clip("a", video=(8, 8, 8), audio=29)], patch=PATCH)
    measured = {}
    for kind in KINDS:
        model = make_model(config, kind, "bfloat16")
        measured[kind] = allocations(lambda model=model: loss_of(model, batch))
    kept = [measured[kind].kept for kind in KINDS]
    assert kept[0] > 1.5 * kept[1] > 1.5 * 2.5 * kept[2]
    assert measured["none"].peak > 1.3 * measured["selective"].peak
    assert measured["none"].peak > 1.3 * measured["full"].peak
    residual_streams = (config.num_layers + 1) * batch.num_tokens * config.hidden_size * 4
    assert residual_streams < kept[2] < 2 * residual_streams


@pytest.mark.parametrize("kind", KINDS[1:])
def test_nothing_is_computed_again_in_evaluation(
    tiny_config: ModelConfig, make_clip: Callable[..., LatentClip], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counting(function: Callable[..., object], *arguments: object) -> object:
        calls.append(function)
        return function(*arguments)

    for function in (recomputed, recomputed_between_products):
        monkeypatch.setattr(f"hh_train.model.blocks.{function.__name__}", partial(counting, function))
    model = make_model(tiny_config, kind, "float32")
    batch = pack([make_clip("a")], patch=PATCH)
    with torch.no_grad():
        model(batch)
    model.eval()(batch)
    assert not calls
    model.train()(batch)
    assert len(calls) == {"full": 1, "selective": 2}[kind] * tiny_config.num_layers


def test_products_are_kept_and_the_rest_is_computed_again() -> None:
    weight = torch.randn(4, 4, requires_grad=True)
    operations = []

    class Operations(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            operations.append(function)
            return function(*args, **(kwargs or {}))

    def between(x: Tensor) -> Tensor:
        return (x @ weight).sigmoid() @ weight

    for function in (recomputed, recomputed_between_products):
        y = function(between, torch.randn(3, 4, requires_grad=True))
        operations.clear()
        with Operations():
            y.sum().backward()
        forward_products = operations.count(torch.ops.aten.mm.default) - 4  # two products for each one's gradients
        assert forward_products == (1 if function is recomputed else 0)  # the last one's result is not needed
        assert operations.count(torch.ops.aten.sigmoid.default) == 1


COMPILED = """
import torch
from hh_train.data.packing import pack
from hh_train.model.config import ModelConfig
from hh_train.model.transformer import SandwichTransformer
from hh_train.types import LatentClip

config = ModelConfig(
    num_layers=1, hidden_size=64, head_dim=32, num_query_groups=1, video_in_channels=12, audio_in_channels=5,
    text_in_channels=7, mm_layers=(), gelu7_layers=(),
)
clips = [LatentClip(key=str(n), video=torch.randn(3, n, 4, 2), audio=torch.randn(4 * n - 3, 5), text=torch.randn(2, 7))
         for n in (2, 3)]
batch = pack(clips, patch=(1, 2, 2))
eager = None
for kind in ("none", "full", "selective"):
    torch.manual_seed(0)
    model = SandwichTransformer(config=config, compute_dtype="float32", activation_checkpointing=kind)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    if eager is not None:
        model.compile_layers(backend="aot_eager")
    saved, weights = {}, {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    def pack_hook(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor
    with torch.autograd.graph.saved_tensors_hooks(pack_hook, lambda tensor: tensor):
        prediction = model(batch)
    (prediction.video.square().mean() + prediction.audio.square().mean()).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    eager = eager or gradients
    for name, gradient in eager.items():
        torch.testing.assert_close(gradients[name], gradient, atol=1e-5, rtol=1e-4, msg=name)
    print(kind, sum(saved.values()))
"""


def test_compiled_layers_recompute_too() -> None:
    """In a process of its own, since the compiler cannot look through this suite's run-time shape checks."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kept = dict(line.split() for line in done.stdout.splitlines())
    assert int(kept["none"]) > 1.3 * int(kept["selective"]) > 1.3 * 1.3 * int(kept["full"])
