"""Adapted layers compiled: whole graphs that compute and differentiate what the layers do uncompiled, with every set of
adapters that is switched on.

In a process of its own, since the compiler cannot look through this suite's run-time shape checks.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

SCRIPT = """
import json

import torch
from torch._dynamo.utils import counters

from hh_train.data.packing import pack
from hh_train.model.attention import PerClipAttention
from hh_train.model.config import ModelConfig
from hh_train.model.lora import AdapterRecipe, AdapterRule, active_adapters, attach_adapter
from hh_train.model.transformer import SandwichTransformer
from hh_train.types import LatentClip

config = ModelConfig(
    num_layers=3, hidden_size=32, head_dim=16, num_query_groups=1, video_in_channels=12, audio_in_channels=5,
    text_in_channels=7, mm_layers=(0,), gelu7_layers=(0,),
)
torch.manual_seed(0)
clips = [
    LatentClip(key=str(n), video=torch.randn(3, n, 4, 2), audio=torch.randn(4 * n - 3, 5), text=torch.randn(n + 1, 7))
    for n in (1, 2, 3)
]
batches = [pack(clips, patch=(1, 2, 2)), pack(clips[2:], patch=(1, 2, 2))]
rules = (AdapterRule(rank=3), AdapterRule(rank=2, parts=("mlp.up",)))
sets = {"none": ({"critic": 1.0},), "selective": ({"student": 0.5}, {})}
found = {}
for kind, active in sets.items():
    torch.manual_seed(1)
    model = SandwichTransformer(
        config=config, compute_dtype="float32", attention=PerClipAttention(), activation_checkpointing=kind
    ).train()
    attach_adapter(model, "student", AdapterRecipe(rules=rules))
    attach_adapter(model, "critic", AdapterRecipe(rules=rules, decomposed=True))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name, parameter in trained.items():
        if not name.endswith("magnitude"):
            torch.nn.init.normal_(parameter, std=0.3)

    def step(batch, weights):
        with active_adapters(model, weights):
            prediction = model(batch)
        if weights:
            (prediction.video.square().sum() + prediction.audio.square().sum()).backward()
        gradients = {name: p.grad.clone() for name, p in trained.items() if p.grad is not None}
        model.zero_grad()
        return prediction, gradients

    eager = [[step(batch, weights) for weights in active] for batch in batches]
    torch._dynamo.reset()
    counters.clear()
    model.compile_layers(backend="aot_eager")
    worst, count = 0.0, 0
    for batch, expected in zip(batches, eager):
        for weights, (prediction, gradients) in zip(active, expected):
            compiled, compiled_gradients = step(batch, weights)
            assert compiled_gradients.keys() == gradients.keys()
            pairs = [(compiled.video, prediction.video), (compiled.audio, prediction.audio)]
            pairs += [(compiled_gradients[name], gradient) for name, gradient in gradients.items()]
            worst = max(worst, *(float((ours - theirs).norm() / (1e-4 + theirs.norm())) for ours, theirs in pairs))
            count += len(gradients)
    found[kind] = {
        "worst": worst, "gradients": count, "breaks": sum(counters["graph_break"].values()),
        "graphs": counters["stats"]["unique_graphs"],
    }
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def findings() -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("kind", ["none", "selective"])
def test_compiled_adapters_compute_and_differentiate_the_same(findings: dict[str, Any], kind: str) -> None:
    assert findings[kind]["worst"] < 1e-5
    assert findings[kind]["gradients"] > 50


@pytest.mark.parametrize("kind", ["none", "selective"])
def test_they_break_no_graph(findings: dict[str, Any], kind: str) -> None:
    assert findings[kind]["breaks"] == 0


def test_graphs_are_shared_between_layers_and_sizes(findings: dict[str, Any]) -> None:
    """Each set of adapters, none included, takes one for each half of each kind of layer, and may take another for the
    first layer, whose input has no gradient.
    """
    assert 4 <= findings["none"]["graphs"] <= 8
    assert 8 <= findings["selective"]["graphs"] <= 16
