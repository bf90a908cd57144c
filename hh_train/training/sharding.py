"""Sharding of a transformer's parameters over a device mesh."""

from __future__ import annotations

from lightning.pytorch.strategies import ModelParallelStrategy
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from hh_train.model.transformer import SandwichTransformer


def shard_layers(model: SandwichTransformer, mesh: DeviceMesh) -> None:
    """FSDP2: every layer is a unit that is gathered as a whole, and so is what stands around the layers."""
    for layer in model.layers:
        fully_shard(layer, mesh=mesh["data_parallel"])
    fully_shard(model, mesh=mesh["data_parallel"])


class ShardedDataParallelStrategy(ModelParallelStrategy):
    """Shards over all processes of all nodes; Lightning's own default would take one process a node."""

    def __init__(self, *, save_distributed_checkpoint: bool = True) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=save_distributed_checkpoint)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()
