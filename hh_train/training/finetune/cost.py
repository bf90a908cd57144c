"""What a fine-tuning run will take on the machine that it is started on: memory, operations, time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from rich.table import Table

from hh_train.data.datamodule import LatentDataModule
from hh_train.data.loading.plan import PlannedClip
from hh_train.training.callbacks import matmul_teraflops
from hh_train.training.finetune.module import FineTuningModule
from hh_train.training.memory import MemoryModel
from hh_train.training.workload import Workload
from hh_train.types import ClipLayout

ASSUMED_MFU = 0.4
"""Share of the rate of matrix products that a step reaches, roughly."""
USABLE_SHARE = 0.92
"""Of a device's memory; the rest is for its context, communication and fragments."""
MAX_BATCHES = 64
"""Whose operations are counted."""
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of a run, predicted; memory is that of the largest batch of an epoch."""

    device: str
    num_devices: int
    peak_bytes: float
    usable_bytes: float
    offloaded_bytes: int
    largest_batch_tokens: int
    step_flops: float
    """Of one device, the mean over batches."""
    teraflops: float
    """Measured rate of matrix products in bf16."""
    num_steps: int

    @property
    def fits(self) -> bool:
        return self.peak_bytes <= self.usable_bytes

    @property
    def step_seconds(self) -> float:
        return self.step_flops / (self.teraflops * 1e12 * ASSUMED_MFU)

    def warnings(self) -> list[str]:
        """What to change where it does not fit."""
        if self.fits:
            return []
        return [
            f"{self.peak_bytes / GIB:.1f} GiB are needed and {self.usable_bytes / GIB:.1f} GiB usable on each "
            f"{self.device}: lower datamodule.tokens_per_batch, set module.base.activation_checkpointing=full, keep "
            "the frozen weights in fewer bits (quantization=nf4) or offload them (module.offload=true); hh-train plan "
            "compares such choices"
        ]

    def table(self) -> Table:
        table = Table(title=f"Predicted on {self.num_devices} x {self.device}", title_justify="left")
        table.add_column("")
        table.add_column("", justify="right")
        table.add_row(f"peak of memory ({self.largest_batch_tokens:,} tokens)", f"{self.peak_bytes / GIB:.2f} GiB")
        table.add_row("usable", f"{self.usable_bytes / GIB:.2f} GiB")
        if self.offloaded_bytes:
            table.add_row("frozen weights in the CPU's memory", f"{self.offloaded_bytes / GIB:.2f} GiB")
        table.add_row("operations of a step", f"{self.step_flops / 1e12:,.3g} TFLOP")
        table.add_row(
            f"seconds a step at {ASSUMED_MFU:.0%} of {self.teraflops:.3g} TFLOP/s", f"{self.step_seconds:.3g}"
        )
        minutes = self.step_seconds * self.num_steps / 60
        table.add_row(
            f"{self.num_steps:,} steps", f"{minutes:.2g} minutes" if minutes < 60 else f"{minutes / 60:.3g} hours"
        )
        return table

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "fits": self.fits, "step_seconds": self.step_seconds}


def workload_of(module: FineTuningModule) -> Workload:
    """The training of a module, before it is built."""
    return Workload(
        model=module.base.factory,
        kind="finetune",
        ema=module.ema_decay is not None,
        moments=module.recipe.moments,
        frozen=module.frozen,
        offload=module.offload,
        adapters=module.adapters,
        rates=module.rates,
    )


def predicted_cost(
    module: FineTuningModule, workload: Workload, datamodule: LatentDataModule, trainer: Trainer
) -> Cost:
    """Walks through a step without storage, and measures the device's rate of matrix products. The data is set up."""
    batches = [[_layout(clip, datamodule) for clip in batch] for batch in datamodule.plan.epoch(0)]
    largest = max(batches, key=_num_tokens)
    device = trainer.strategy.root_device
    is_sharded = isinstance(trainer.strategy, ModelParallelStrategy)
    memory = MemoryModel(workload=workload, on_cpu=device.type == "cpu").device_bytes(
        largest,
        strategy="fsdp" if is_sharded else "ddp",
        num_devices=trainer.world_size,
        kind=module.base.activation_checkpointing,
    )
    counted = list(islice(batches, MAX_BATCHES))
    flops = sum(
        workload.step_flops(batch) + workload.recomputed_flops(batch, module.base.activation_checkpointing)
        for batch in counted
    )
    return Cost(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}",
        num_devices=trainer.world_size,
        peak_bytes=memory.peak,
        usable_bytes=USABLE_SHARE * _memory_bytes(device),
        offloaded_bytes=workload.offloaded_bytes,
        largest_batch_tokens=_num_tokens(largest),
        step_flops=flops / len(counted),
        teraflops=matmul_teraflops(device, torch.bfloat16),
        num_steps=trainer.max_steps,
    )


def _layout(clip: PlannedClip, datamodule: LatentDataModule) -> ClipLayout:
    frames, rows, columns = (0, 0, 0) if clip.drops_video or clip.sample.video is None else clip.sample.video
    patch = datamodule.patch
    return ClipLayout(
        video=(frames // patch[0], rows // patch[1], columns // patch[2]),
        audio=clip.sample.audio or 0,
        text=datamodule.budget.null_text_tokens if clip.drops_text else clip.sample.text,
    )


def _num_tokens(layouts: Sequence[ClipLayout]) -> int:
    return sum(layout.num_tokens for layout in layouts)


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
