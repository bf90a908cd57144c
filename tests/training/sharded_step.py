"""Under torchrun: one AdamW step of a model sharded over the ranks, and of a whole one. Started by test_sharding.py."""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from hh_train.data.packing import pack
from hh_train.model.config import ModelConfig
from hh_train.model.transformer import SandwichTransformer
from hh_train.training.optim import AdamWRecipe
from hh_train.training.sharding import shard_layers
from hh_train.types import LatentClip, PackedBatch


def make_model(activation_checkpointing: str = "none") -> SandwichTransformer:
    torch.manual_seed(0)
    config = ModelConfig(
        num_layers=3, hidden_size=32, head_dim=16, num_query_groups=1, video_in_channels=12, audio_in_channels=5,
        text_in_channels=7, mm_layers=(0, 2), gelu7_layers=(0,),
    )  # fmt: skip
    model = SandwichTransformer(
        config=config, compute_dtype="float32", activation_checkpointing=activation_checkpointing
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


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


def whole(value: Tensor) -> Tensor:
    return (value.full_tensor() if isinstance(value, DTensor) else value).detach().clone()


def step(model: SandwichTransformer, batch: PackedBatch) -> dict[str, object]:
    prediction = model(batch)
    (prediction.video.square().mean() + prediction.audio.square().mean()).backward()
    gradients = {name: whole(parameter.grad) for name, parameter in model.named_parameters()}
    optimizer, _ = AdamWRecipe(learning_rate=1e-2, weight_decay=0.1).build(model.parameters(), num_steps=1)
    optimizer.step()
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return {"video": prediction.video.detach(), "gradients": gradients, "weights": weights}


def main(path: str) -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("data_parallel",))
    batch = make_batch()
    sharded = make_model()
    num_parameters = sum(parameter.numel() for parameter in sharded.parameters())
    shard_layers(sharded, mesh)
    share = sum(parameter.to_local().numel() for parameter in sharded.parameters()) / num_parameters
    units = [name for name, module in sharded.named_modules() if type(module).__name__.startswith("FSDP")]
    results = {"sharded": step(sharded, batch), "whole": step(make_model(), batch), "share": share, "units": units}
    for kind in ("full", "selective"):
        model = make_model(kind)
        shard_layers(model, mesh)
        results[kind] = step(model, batch)
    if dist.get_rank() == 0:
        torch.save(results, path)
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads may still run when the interpreter ends, which aborts now and then


if __name__ == "__main__":
    main(sys.argv[1])
