"""Under torchrun: gradients of an adapter on frozen weights that are sharded over the ranks, and on whole ones.

Started by test_freeze.py.
"""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from hh_train.data.packing import pack
from hh_train.model.config import ModelConfig
from hh_train.model.lora.attach import attach_adapter
from hh_train.model.lora.targets import AdapterRecipe, AdapterRule
from hh_train.model.quantized.formats import Float8Format, Int8Format, NF4Format, WeightFormat
from hh_train.model.quantized.freeze import quantize_frozen
from hh_train.model.transformer import SandwichTransformer
from hh_train.types import LatentClip, PackedBatch


def make_model(weight_format: WeightFormat) -> SandwichTransformer:
    torch.manual_seed(0)
    config = ModelConfig(
        num_layers=3, hidden_size=32, head_dim=16, num_query_groups=1, video_in_channels=12, audio_in_channels=5,
        text_in_channels=7, mm_layers=(0, 2), gelu7_layers=(0,),
    )  # fmt: skip
    model = SandwichTransformer(config=config, compute_dtype="float32")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    quantize_frozen(model, weight_format)
    adapters = attach_adapter(model, "trained", AdapterRecipe(rules=(AdapterRule(rank=2),)))
    for parameter in adapters.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


def make_batch() -> PackedBatch:
    generator = torch.Generator().manual_seed(1)
    clip = LatentClip(
        key="a",
        video=torch.randn(3, 3, 4, 2, generator=generator),
        audio=torch.randn(9, 5, generator=generator),
        text=torch.randn(3, 7, generator=generator),
    )
    return pack([clip], patch=(1, 2, 2))


def gradients(model: nn.Module) -> dict[str, Tensor]:
    prediction = model(make_batch())
    (prediction.video.square().mean() + prediction.audio.square().mean()).backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    wholes = {name: one.full_tensor() if isinstance(one, DTensor) else one for name, one in found.items()}
    return {name.removeprefix("module."): whole for name, whole in wholes.items()}


def main(path: str) -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("data_parallel",))
    results = {}
    for weight_format in (Float8Format(), Int8Format(), NF4Format()):
        sharded = make_model(weight_format)
        num_bytes = sum(parameter.nbytes for parameter in sharded.parameters())
        for layer in sharded.layers:
            fully_shard(layer, mesh=mesh["data_parallel"])
        fully_shard(sharded, mesh=mesh["data_parallel"])
        share = sum(parameter.to_local().nbytes for parameter in sharded.parameters()) / num_bytes
        copies = DistributedDataParallel(make_model(weight_format), find_unused_parameters=True)
        results[weight_format.name] = {
            "copies": gradients(copies),
            "share": share, "sharded": gradients(sharded), "whole": gradients(make_model(weight_format)),
        }  # fmt: skip
    if dist.get_rank() == 0:
        torch.save(results, path)
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads may still run when the interpreter ends, which aborts now and then


if __name__ == "__main__":
    main(sys.argv[1])
