"""What the compiler makes of the layers: whole graphs that compute what the layers compute uncompiled.

All in one process of its own, since the compiler cannot look through this suite's run-time shape checks. Graphs are
traced and differentiated ahead of time, but not turned into machine code: this needs no C++ compiler.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

SCRIPT = """
import json
from dataclasses import replace

import torch
from torch._dynamo.utils import counters

from hh_train.data.packing import pack
from hh_train.model.attention import PerClipAttention
from hh_train.model.config import ModelConfig
from hh_train.model.transformer import SandwichTransformer
from hh_train.types import LatentClip

torch.manual_seed(0)
config = ModelConfig(
    num_layers=4, hidden_size=32, head_dim=16, num_query_groups=1, video_in_channels=12, audio_in_channels=5,
    text_in_channels=7, mm_layers=(0, 3), gelu7_layers=(0,),
)
clips = [
    LatentClip(key=str(n), video=torch.randn(3, n, 4, 2), audio=torch.randn(4 * n - 3, 5), text=torch.randn(n + 1, 7))
    for n in (1, 2, 3)
]
batches = [pack(chosen, patch=(1, 2, 2)) for chosen in (clips[:2], clips, clips[2:])]
model = SandwichTransformer(config=config, compute_dtype="float32", attention=PerClipAttention())
for parameter in model.parameters():
    torch.nn.init.normal_(parameter, std=0.2)


def step(batch):
    prediction = model(batch)
    (prediction.video.square().sum() + prediction.audio.square().sum()).backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    return prediction, gradients


def breaks_in_whole_layers():
    batch = batches[0]
    context = model.context(batch)
    x = torch.randn(batch.num_tokens, 32, requires_grad=True)
    found = [torch._dynamo.explain(layer)(x, context).graph_break_count for layer in model.layers]
    torch._dynamo.reset()
    counters.clear()
    return found


eager = [step(batch) for batch in batches]
whole = breaks_in_whole_layers()
model.compile_layers(backend="aot_eager")
worst = 0.0
for batch, (prediction, gradients) in zip(batches, eager):
    compiled, compiled_gradients = step(batch)
    pairs = [(compiled.video, prediction.video), (compiled.audio, prediction.audio)]
    pairs += [(compiled_gradients[name], gradient) for name, gradient in gradients.items()]
    worst = max(worst, *(float((ours - theirs).norm() / (1e-6 + theirs.norm())) for ours, theirs in pairs))
halves = {"breaks": sum(counters["graph_break"].values()), "graphs": counters["stats"]["unique_graphs"]}
silent = pack([replace(clip, audio=None) for clip in clips], patch=(1, 2, 2))
for num_heads in (1, 3, 4):
    other = SandwichTransformer(config=replace(config, hidden_size=16 * num_heads), compute_dtype="float32")
    other.compile_layers(backend="eager")
    for batch in (batches[0], silent):
        other(batch)
        with torch.no_grad():
            other(batch)
print(json.dumps({
    "graphs_of_many_models": counters["stats"]["unique_graphs"] - halves["graphs"],
    "breaks_in_whole_layers": whole,
    "breaks_in_halves": halves["breaks"],
    "graphs_of_halves": halves["graphs"],
    "largest_difference": worst,
}))
"""


@pytest.fixture(scope="module")
def findings() -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_compiled_layers_compute_and_differentiate_the_same(findings: dict[str, Any]) -> None:
    """For packs of three sizes, one of a single clip."""
    assert findings["largest_difference"] < 1e-5


def test_what_stands_around_attention_has_no_graph_breaks(findings: dict[str, Any]) -> None:
    assert findings["breaks_in_halves"] == 0


def test_graphs_are_shared_between_layers_and_sizes(findings: dict[str, Any]) -> None:
    """Three kinds of layer (per modality with GELU, shared, per modality with SwiGLU) have two halves each; the first
    halves of both kinds per modality are the same, and each may be traced again for other sizes.
    """
    assert 5 <= findings["graphs_of_halves"] <= 2 * 5


def test_whole_layers_with_sdpa_have_no_graph_breaks(findings: dict[str, Any]) -> None:
    assert findings["breaks_in_whole_layers"] == [0, 0, 0, 0]


def test_a_process_may_compile_several_models(findings: dict[str, Any]) -> None:
    """As distillation does. Teacher, student and critic together need more graphs than the compiler's own limit."""
    assert findings["graphs_of_many_models"] > 2 * 8
