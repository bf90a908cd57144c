"""Under torchrun: one step of an adapter whose base is sharded over the ranks with it, and of a whole one. Started by
test_attach.py.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from hh_train.data.packing import pack
from hh_train.model.config import ModelConfig
from hh_train.model.lora import (
    AdapterRecipe,
    AdapterRule,
    AdapterSet,
    attach_adapter,
    fill_adapter,
    initialize_adapter,
    read_adapter,
    write_adapter,
)
from hh_train.model.transformer import SandwichTransformer
from hh_train.types import LatentClip, PackedBatch

CONFIG = ModelConfig(
    num_layers=3, hidden_size=32, head_dim=16, num_query_groups=1, video_in_channels=12, audio_in_channels=5,
    text_in_channels=7, mm_layers=(0, 2), gelu7_layers=(0,),
)  # fmt: skip
KINDS = {"parts": ("none", False), "decomposed": ("none", True), "recomputed": ("full", True)}


def make_model(kind: str) -> tuple[SandwichTransformer, AdapterSet]:
    torch.manual_seed(0)
    checkpointing, decomposed = KINDS[kind]
    model = SandwichTransformer(config=CONFIG, compute_dtype="float32", activation_checkpointing=checkpointing)
    for layer in model.layers:
        for name, parameter in layer.named_parameters():
            if name.endswith(("qkv.weight", "proj.weight")):
                parameter.data = parameter.data.bfloat16()
    adapters = attach_adapter(model, "one", AdapterRecipe(rules=(AdapterRule(rank=3),), decomposed=decomposed))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in adapters.named_parameters():
        if not name.endswith("magnitude"):
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return model, adapters


def make_batch() -> PackedBatch:
    generator = torch.Generator().manual_seed(1)
    clips = [
        LatentClip(
            key=str(frames),
            video=torch.randn(3, frames, 4, 2, generator=generator),
            audio=torch.randn(4 * frames - 3, 5, generator=generator),
            text=torch.randn(frames, 7, generator=generator),
        )
        for frames in (2, 3)
    ]
    return pack(clips, patch=(1, 2, 2))


def shard(model: SandwichTransformer) -> None:
    """As hh_train.training.sharding does, which the model's tests may not import."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


def whole(value: Tensor | None) -> Tensor:
    assert value is not None
    return (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()


def step(kind: str, path: Path, *, sharded: bool) -> dict[str, object]:
    model, adapters = make_model(kind)
    if sharded:
        shard(model)
    prediction = model(make_batch())
    (prediction.video.square().mean() + prediction.audio.square().mean()).backward()
    read = {name: p for name, p in adapters.named_parameters() if p.grad is not None}
    gradients = {name: whole(parameter.grad) for name, parameter in read.items()}
    torch.optim.SGD(adapters.parameters(), lr=0.1).step()
    weights = {name: whole(parameter) for name, parameter in adapters.named_parameters()}
    file = path.with_name(f"{kind}-{sharded}.safetensors")
    write_adapter(model, adapters, file)
    dist.barrier()
    initialize_adapter(model, "one", seed=8)
    drawn = {name: whole(parameter) for name, parameter in adapters.named_parameters()}
    fill_adapter(model, "one", read_adapter(file, CONFIG).weights)
    filled = {name: whole(parameter) for name, parameter in adapters.named_parameters()}
    return {
        "drawn": drawn,
        "read": filled,
        "video": prediction.video.detach(),
        "gradients": gradients,
        "weights": weights,
        "file": load_file(file) if dist.get_rank() == 0 else {},
    }


def main(path: str) -> None:
    dist.init_process_group("gloo")
    results: dict[str, object] = {
        name: {kind: step(kind, Path(path), sharded=name == "sharded") for kind in KINDS}
        for name in ("sharded", "whole")
    }
    model, _ = make_model("parts")
    count = sum(parameter.numel() for parameter in model.parameters())
    shard(model)
    results["share"] = sum(parameter.to_local().numel() for parameter in model.parameters()) / count
    try:
        attach_adapter(model, "two", AdapterRecipe(rules=(AdapterRule(rank=3),)))
    except ValueError as error:
        results["too_late"] = str(error)
    if dist.get_rank() == 0:
        torch.save(results, path)
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads may still run when the interpreter ends, which aborts now and then


if __name__ == "__main__":
    main(sys.argv[1])
