"""A LoRA of the released 15B model on one GPU, with random weights: peak memory and seconds a step, against the plan.

    python scripts/bench_finetune.py --format nf4 --rank 32

Weights are random codes: time and memory do not depend on what they are. On a CPU the peak is what its allocator has
handed out beside the frozen weights, with which these are counted; its kernels may hold fp32 copies of a matrix that no
GPU makes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TypeVar, get_args

import torch

from hh_train.data.packing import pack
from hh_train.model.config import ModelConfig
from hh_train.model.lora.attach import attach_adapter
from hh_train.model.lora.targets import AdapterRecipe, AdapterRule
from hh_train.model.quantized.freeze import offload_frozen, quantize_frozen
from hh_train.model.quantized.linear import FrozenLinear
from hh_train.model.rope import RotaryBands
from hh_train.model.size import ClipShape
from hh_train.model.transformer import SandwichTransformer
from hh_train.training.memory import MemoryModel
from hh_train.training.optim import AdamWRecipe, Moments
from hh_train.training.plan import FORMATS
from hh_train.training.workload import Workload
from hh_train.types import LatentClip, PackedBatch

GIB = 2**30
Result = TypeVar("Result")
RELEASED = ModelConfig(
    num_layers=40, hidden_size=5120, head_dim=128, num_query_groups=8, video_in_channels=192, audio_in_channels=64,
    text_in_channels=3584, mm_layers=(0, 1, 2, 3, 36, 37, 38, 39), gelu7_layers=(0, 1, 2, 3),
)  # fmt: skip
SMALL = ModelConfig(
    num_layers=6, hidden_size=512, head_dim=64, num_query_groups=2, video_in_channels=192, audio_in_channels=64,
    text_in_channels=96, mm_layers=(0, 5), gelu7_layers=(0,),
)  # fmt: skip


@torch.no_grad()
def fill(model: SandwichTransformer) -> None:
    """Random codes under scales that keep the activations near 1."""
    for module in model.modules():
        if not isinstance(module, FrozenLinear):
            continue
        scale = module.in_features**-0.5
        for name, part in module.parts.items():
            if part.dtype in (torch.float32, torch.bfloat16):
                part.normal_(std=scale) if name == "values" else part.fill_(scale / 100)
            else:
                part.view(torch.uint8).random_(0, 100)
    for name, parameter in model.named_parameters():
        if not isinstance(model.get_submodule(name.rpartition(".")[0]), FrozenLinear):
            parameter.normal_(std=0.02)
    model.adapter.rope.bands.copy_(RotaryBands(head_dim=model.config.head_dim).bands)


def make_batch(config: ModelConfig, shape: ClipShape) -> PackedBatch:
    layout = shape.layout(config.patch)
    grid = (layout.video[0], layout.video[1] * config.patch[1], layout.video[2] * config.patch[2])
    clip = LatentClip(
        key="a",
        video=torch.randn(config.video_in_channels // config.patch_volume, *grid),
        audio=torch.randn(layout.audio, config.audio_in_channels),
        text=torch.randn(layout.text, config.text_in_channels),
    )
    return pack([clip], patch=config.patch)


def train(
    model: SandwichTransformer, batch: PackedBatch, recipe: AdapterRecipe, *, moments: Moments, steps: int
) -> tuple[list[float], float]:
    """Seconds of each step, and the last loss."""
    adapters = attach_adapter(model, "trained", recipe).to(batch.video.device)
    optimizer, _ = AdamWRecipe(learning_rate=1e-4, moments=moments).build(adapters.parameters(), num_steps=steps)
    seconds, last = [], 0.0
    for step in range(steps):
        if batch.video.is_cuda and step == 1:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        prediction = model(batch)
        loss = prediction.video.square().mean() + prediction.audio.square().mean()
        del prediction
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        last = loss.item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return seconds, last


def with_peak(run: Callable[[], Result], *, on_cpu: bool, before: int) -> tuple[Result, int]:
    """What the function returns, and the most bytes that lay on the device meanwhile; `before` are there already."""
    if not on_cpu:
        return run(), torch.cuda.max_memory_allocated()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = run()
    with tempfile.NamedTemporaryFile(suffix=".json") as trace:
        profile.export_chrome_trace(trace.name)
        events = json.loads(Path(trace.name).read_text())["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    return result, before + max(accumulate(size for _, size in changes))


def measure(
    config: ModelConfig, shape: ClipShape, name: str, *, rank: int, moments: Moments, steps: int, offload: bool
) -> dict[str, object]:
    """Measured and planned bytes and seconds of a step, with layers recomputed."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    make = partial(SandwichTransformer, config=config, activation_checkpointing="full")
    recipe = AdapterRecipe(rules=(AdapterRule(rank=rank),))
    with torch.device("meta"):
        model = quantize_frozen(make(), FORMATS[name])
    if offload:  # filled where it stays
        fill(model.to_empty(device="cpu"))
        offload_frozen(model)
        model.to(device)
    else:
        fill(model.to_empty(device=device))
    batch = make_batch(config, shape).to(device)
    frozen = sum(parameter.nbytes for parameter in model.parameters())
    (seconds, loss), peak = with_peak(
        partial(train, model, batch, recipe, moments=moments, steps=steps), on_cpu=device.type == "cpu", before=frozen
    )
    workload = Workload(
        model=make, kind="finetune", ema=False, moments=moments, frozen=FORMATS[name], adapters=recipe, offload=offload
    )
    planned = MemoryModel(workload=workload, on_cpu=device.type == "cpu").device_bytes(
        batch.layouts, strategy="ddp", num_devices=1, kind="full"
    )
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "format": name,
        "moments": moments,
        "offload": offload,
        "tokens": batch.num_tokens,
        "trained_parameters": workload.trained_parameters,
        "loss": loss,
        "frozen_gib": frozen / GIB,
        "peak_gib": peak / GIB,
        "planned_peak_gib": (planned.peak + (workload.offloaded_bytes if device.type == "cpu" else 0)) / GIB,
        "seconds_per_step": sorted(seconds[1:])[len(seconds[1:]) // 2],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--format", choices=tuple(FORMATS), default="nf4")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--moments", choices=get_args(Moments), default="float32", help="of the optimizer")
    parser.add_argument("--steps", type=int, default=5, help="the first one is left out")
    parser.add_argument("--offload", action="store_true", help="frozen weights in the CPU's memory")
    parser.add_argument("--small", action="store_true", help="a small model and clip, for CPUs")
    arguments = parser.parse_args()
    config = SMALL if arguments.small else RELEASED
    shape = (
        ClipShape(size=(128, 128), seconds=2.0, text_tokens=20)
        if arguments.small
        else ClipShape(size=(256, 448), seconds=5.0)
    )
    result = measure(
        config,
        shape,
        arguments.format,
        rank=arguments.rank,
        moments=arguments.moments,
        steps=arguments.steps,
        offload=arguments.offload,
    )
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
