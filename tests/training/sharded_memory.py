"""Under torchrun: the memory that one rank's sharded training steps take from Linux, and what was predicted. Started by
test_memory.py, which makes the allocator give back all that is freed.
"""

from __future__ import annotations

import gc
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from hh_train.data.packing import pack
from hh_train.model.config import ModelConfig
from hh_train.model.transformer import SandwichTransformer
from hh_train.training.memory import MemoryModel
from hh_train.training.optim import AdamWRecipe
from hh_train.training.sharding import shard_layers
from hh_train.training.workload import Workload
from hh_train.types import LatentClip, PackedBatch

CONFIG = ModelConfig(
    num_layers=6, hidden_size=384, head_dim=64, num_query_groups=2, video_in_channels=192, audio_in_channels=64,
    text_in_channels=96, mm_layers=(0, 5), gelu7_layers=(0,),
)  # fmt: skip


def make_batch(num_clips: int) -> PackedBatch:
    clip = LatentClip(key="a", video=torch.randn(48, 10, 4, 4), audio=torch.randn(37, 64), text=torch.randn(20, 96))
    return pack([clip] * num_clips, patch=(1, 2, 2))


def train(model: SandwichTransformer, batch: PackedBatch) -> None:
    gc.collect()
    optimizer, _ = AdamWRecipe(learning_rate=1e-3).build(model.parameters(), num_steps=2)
    for _ in range(2):
        prediction = model(batch)
        loss = prediction.video.square().mean() + prediction.audio.square().mean()
        del prediction
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def resident(key: str) -> int:
    """VmRSS, or VmHWM: the most since `forget_peak`; bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def main(path: Path) -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("data_parallel",))
    results = []
    batch = make_batch(4)
    warm_up = SandwichTransformer(config=replace(CONFIG, num_layers=1, mm_layers=()))
    shard_layers(warm_up, mesh)
    train(warm_up, batch)  # libraries and thread pools stay from here on
    del warm_up
    for kind in ("none", "selective", "full"):
        gc.collect()
        before = resident("VmRSS")
        make = partial(SandwichTransformer, config=CONFIG, activation_checkpointing=kind)
        model = make()
        shard_layers(model, mesh)
        gc.collect()
        forget_peak()
        train(model, batch)
        measured = resident("VmHWM") - before
        memory = MemoryModel(workload=Workload(model=make, ema=False), on_cpu=True)
        predicted = memory.device_bytes(batch.layouts, strategy="fsdp", num_devices=2, kind=kind)
        results.append({"kind": kind, "measured": measured, "predicted": predicted.peak})
        del model
    if dist.get_rank() == 0:
        torch.save(results, path)
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads may still run when the interpreter ends, which aborts now and then


if __name__ == "__main__":
    main(Path(sys.argv[1]))
