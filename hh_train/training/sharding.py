"""Sharding of a transformer's parameters over a device mesh."""

from __future__ import annotations

from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from hh_train.model.transformer import SandwichTransformer


def shard_layers(model: SandwichTransformer, mesh: DeviceMesh) -> None:
    """FSDP2: every layer is a unit that is gathered as a whole, and so is what stands around the layers."""
    for layer in model.layers:
        fully_shard(layer, mesh=mesh["data_parallel"])
    fully_shard(model, mesh=mesh["data_parallel"])
