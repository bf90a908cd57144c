"""The few facts about the process group that code below Lightning needs. Without a group every one holds trivially."""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """Number of this process. Before the group exists, what the launcher has set, so that early messages come once."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank()
    return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0)


def world_size() -> int:
    """Processes in the group: 1 without a group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_rank_zero() -> bool:
    """Whether this is the process that speaks and writes for all."""
    return rank() == 0


def own_device() -> torch.device:
    """The accelerator of this process, by the number that the launcher gave it on its machine; else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    number = int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0)
    return torch.device("cuda", number % torch.cuda.device_count())


def use_own_device() -> None:
    """Makes `cuda`, without a number, mean this process's accelerator."""
    device = own_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)


def all_reduce_sum(values: Tensor) -> Tensor:
    """Sum over the processes, same shape; the argument stays as it is. Carries no gradient."""
    if world_size() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total, op=dist.ReduceOp.SUM)
    return total


def barrier() -> None:
    """Waits until every process is here."""
    if world_size() > 1:
        dist.barrier()
