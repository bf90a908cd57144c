"""Under torchrun: fills a model that is sharded before it has weights. Started by test_checkpoint.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh

from hh_train.model.checkpoint import load_weights, read_config
from hh_train.model.transformer import SandwichTransformer
from hh_train.model.weight_files import WeightFiles
from hh_train.training.sharding import shard_layers

ELEMENTS: list[int] = []


def counting(self: WeightFiles, target: Tensor, name: str, part: tuple[slice, ...] = ()) -> None:
    ELEMENTS.append(target.numel())
    copy_into(self, target, name, part)


copy_into = WeightFiles.copy_into
WeightFiles.copy_into = counting  # type: ignore[method-assign]


def main(folder: Path, output: str) -> None:
    dist.init_process_group("gloo")
    with torch.device("meta"):
        model = SandwichTransformer(config=read_config(folder))
    shard_layers(model, init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("data_parallel",)))
    model.to_empty(device="cpu")
    load_weights(model, folder)
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    elements: list[int] = [0] * dist.get_world_size()
    dist.all_gather_object(elements, sum(ELEMENTS))
    if dist.get_rank() == 0:
        torch.save({"weights": weights, "elements_read": elements}, output)
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads may still run when the interpreter ends, which aborts now and then


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
