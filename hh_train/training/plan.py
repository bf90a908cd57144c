"""One way to run a workload: whether it fits, how long it takes, and what to change where it does not fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

from hh_train.model.quantized.formats import Float8Format, Int8Format, NF4Format, PlainFormat, WeightFormat
from hh_train.model.recompute import ActivationCheckpointing
from hh_train.training.memory import DeviceBytes, MemoryModel, Strategy
from hh_train.training.workload import Accelerator, Workload
from hh_train.types import ClipLayout

CHECKPOINTING: tuple[ActivationCheckpointing, ...] = ("none", "selective", "full")
"""From the fastest to the smallest."""
LARGEST_CLUSTER = 4096
FORMATS: Mapping[str, WeightFormat] = {
    one.name: one for one in (PlainFormat(dtype="float32"), PlainFormat(), Float8Format(), Int8Format(), NF4Format())
}
"""By the names of the files in configs/quantization, from the largest to the smallest."""
_ROWS, _COLUMNS = 1024, 4096
"""Of a matrix by which formats are compared."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One way to run; `kind` is its activation checkpointing."""

    workload: Workload
    gpu: Accelerator
    num_gpus: int
    strategy: Strategy
    layout: ClipLayout
    clips_per_gpu: int
    mfu: float
    usable_share: float
    kind: ActivationCheckpointing

    @property
    def clips(self) -> tuple[ClipLayout, ...]:
        """Of one device in one step."""
        return (self.layout,) * self.clips_per_gpu

    @property
    def device_bytes(self) -> DeviceBytes:
        memory = MemoryModel(workload=self.workload, on_cpu=self.gpu.is_cpu)
        return memory.device_bytes(self.clips, strategy=self.strategy, num_devices=self.num_gpus, kind=self.kind)

    @property
    def usable_bytes(self) -> float:
        return self.gpu.memory_gib * self.usable_share * 2**30

    @property
    def fits(self) -> bool:
        return self.device_bytes.peak <= self.usable_bytes

    @property
    def step_seconds(self) -> float:
        operations = self.workload.step_flops(self.clips) + self.workload.recomputed_flops(self.clips, self.kind)
        return operations / (self.gpu.teraflops * 1e12 * self.mfu)

    def changes(self) -> Iterator[str]:
        """The fewest settings to change for it to fit, as overrides: for each choice of settings, the least change."""
        choices = self._choices()
        for count in range(1, len(choices) + 1):
            found = False
            for names in combinations(choices, count):
                changed = next(filter(self._fits_with, self._settings(choices, names)), None)
                if changed is not None:
                    found = True
                    yield " ".join(f"{name}={value}" for name, value in changed.items())
            if found:
                return

    def _choices(self) -> dict[str, list[Any]]:
        """What each setting could be instead, the smallest change first."""
        smaller = CHECKPOINTING[CHECKPOINTING.index(self.kind) + 1 :] if self.workload.num_trained else ()
        workload = self.workload
        is_sharded = workload.num_trained > 0 and workload.adapter_rank is None and not workload.offload
        doublings = [self.num_gpus * 2**i for i in range(1, 13) if self.num_gpus * 2**i <= LARGEST_CLUSTER]
        choices: dict[str, list[Any]] = {
            "module.model.activation_checkpointing": list(smaller),
            "clips_per_gpu": sorted({self.clips_per_gpu // 2, 1} - {self.clips_per_gpu, 0}, reverse=True),
            "strategy": ["fsdp"] if self.strategy == "ddp" and is_sharded else [],
            "num_gpus": doublings if is_sharded else [],
            "quantization": self._smaller_formats(),
            "module.offload": [True] if self._may_offload else [],
            "module.moments": ["8bit"] if workload.num_trained and workload.moments == "float32" else [],
        }
        return {name: values for name, values in choices.items() if values}

    def _smaller_formats(self) -> list[str]:
        """Names of the formats, in configs/quantization, that take fewer bytes than the frozen weights' own."""
        workload = self.workload
        if workload.adapters is not None:
            possible = list(FORMATS)
        else:
            possible = ["bfloat16"] if workload.kind == "inference" or workload.is_adapted else []
        own = workload.frozen.num_bytes(_ROWS, _COLUMNS)
        return [name for name in possible if FORMATS[name].num_bytes(_ROWS, _COLUMNS) < own]

    @property
    def _may_offload(self) -> bool:
        is_sharded = self.strategy == "fsdp" and self.num_gpus > 1
        return self.workload.adapters is not None and not (self.workload.offload or self.gpu.is_cpu or is_sharded)

    @staticmethod
    def _settings(choices: Mapping[str, list[Any]], names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
        for values in product(*(choices[name] for name in names)):
            yield dict(zip(names, values, strict=True))

    def _fits_with(self, settings: Mapping[str, Any]) -> bool:
        name = settings.get("quantization")
        workload = self.workload.changed(
            frozen=self.workload.frozen if name is None else FORMATS[name],
            offload=settings.get("module.offload", self.workload.offload),
            moments=settings.get("module.moments", self.workload.moments),
        )
        changed = replace(
            self,
            workload=workload,
            kind=settings.get("module.model.activation_checkpointing", self.kind),
            clips_per_gpu=settings.get("clips_per_gpu", self.clips_per_gpu),
            strategy=settings.get("strategy", self.strategy),
            num_gpus=settings.get("num_gpus", self.num_gpus),
        )
        is_refused = changed.workload.offload and changed.strategy == "fsdp" and changed.num_gpus > 1
        return not is_refused and changed.fits
