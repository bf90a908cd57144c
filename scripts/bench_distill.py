"""What a DMD-2 iteration costs, and how near its rate comes to that of a pretraining step taken in the same run.

    python scripts/bench_distill.py [--preset cpu] [--rounds 5] [--clips 8] [--device cpu] [--tiny]

rate    counted operations a second of whole cadences (five critic steps, one of them with a student step), as a share
        of those of pretraining steps on the same batch. Rounds alternate; medians with their range.
passes  what every part of an iteration takes in forward passes over the batch, and how many the formula leaves out.
memory  bytes of the state (weights, gradients, moments, EMA, frozen weights) and predicted peak, with whole copies and
        with adapters, beside the peak that the device's allocator measures in an iteration with a student step.

Times of one machine at one moment say nothing about another. `--tiny` shows that the code runs.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, IterableDataset

from hh_train.data.packing import pack
from hh_train.flow.guidance import Guidance
from hh_train.flow.noise_levels import ShiftedUniform
from hh_train.flow.solvers import RenoiseSolver
from hh_train.model.config import ModelConfig
from hh_train.model.size import forward_flops
from hh_train.model.transformer import SandwichTransformer
from hh_train.runtime.composition import compose_config
from hh_train.runtime.config import instantiate
from hh_train.training.dmd2.adapters import LowRank
from hh_train.training.dmd2.critic import CriticFlow
from hh_train.training.dmd2.matching import DistributionMatching
from hh_train.training.dmd2.module import DMD2Module
from hh_train.training.dmd2.rollout import BackwardSimulation
from hh_train.training.flow_module import FlowMatchingModule
from hh_train.training.memory import MemoryModel
from hh_train.training.optim import AdamWRecipe
from hh_train.training.workload import Workload
from hh_train.types import LatentClip, PackedBatch

CADENCE = 5
RECIPE = AdamWRecipe(learning_rate=1e-5)
MAX_ADAPTER_RANK = 64
console = Console(width=140)


class Repeated(IterableDataset[PackedBatch]):
    """The same pack without end."""

    def __init__(self, batch: PackedBatch) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[PackedBatch]:
        while True:
            yield self.batch


class Rates(Callback):
    """Operations and seconds of every step but the first, and the passes of each."""

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps
        self.seconds: list[float] = []
        self.flops: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:  # noqa: ARG002
        _wait(pl_module.device)
        self._start = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: object,  # noqa: ARG002
        batch: PackedBatch,
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        _wait(pl_module.device)
        self.seconds.append(time.perf_counter() - self._start)
        self.flops.append(pl_module.step_flops(batch))
        trainer.should_stop = len(self.seconds) > self.num_steps

    @property
    def rate(self) -> float:
        return sum(self.flops[1:]) / sum(self.seconds[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def make_batch(config: ModelConfig, num_clips: int) -> PackedBatch:
    """Clips of 37 frames of 64 x 64 pixels with sound and a prompt, in random latents."""
    channels = config.video_in_channels // config.patch_volume
    return pack(
        [
            LatentClip(
                key=str(index),
                video=torch.randn(channels, 10, 4, 4),
                audio=torch.randn(37, config.audio_in_channels),
                text=torch.randn(30, config.text_in_channels),
            )
            for index in range(num_clips)
        ],
        patch=config.patch,
    )


def pretraining(config: ModelConfig) -> FlowMatchingModule:
    return FlowMatchingModule(model=SandwichTransformer(config=config), noise_levels=ShiftedUniform(), optimizer=RECIPE)


def distillation(config: ModelConfig, *, adapters: LowRank | None = None, cadence: int = CADENCE) -> DMD2Module:
    return DMD2Module(
        teacher=SandwichTransformer(config=config),
        null_text=torch.zeros(30, config.text_in_channels),
        rollout=BackwardSimulation(sampler=RenoiseSolver()),
        matching=DistributionMatching(guidance=Guidance(video=2.0, audio=2.0)),
        critic_flow=CriticFlow(),
        adapters=adapters,
        student_optimizer=RECIPE,
        critic_optimizer=RECIPE,
        num_student_steps=10**6,
        critic_steps_per_student_step=cadence,
    )


def walk(module: LightningModule, batch: PackedBatch, *, num_steps: int, device: str) -> Rates:
    """Trains for so many steps after a first one that does not count."""
    rates = Rates(num_steps)
    trainer = Trainer(
        accelerator="gpu" if device == "cuda" else "cpu", devices=1, max_steps=10**6, max_epochs=-1, logger=False,
        callbacks=[rates], enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(Repeated(batch), batch_size=None))
    return rates


def bench_rate(config: ModelConfig, batch: PackedBatch, *, rounds: int, device: str) -> None:
    modules = {"pretraining step": pretraining(config), "DMD-2 cadence": distillation(config)}
    measured: dict[str, list[Rates]] = {name: [] for name in modules}
    for index in range(rounds + 1):  # the first round does not count
        for name, module in modules.items():
            rates = walk(module, batch, num_steps=2 * CADENCE, device=device)
            if index:
                measured[name].append(rates)
    first = [rates.rate for rates in measured["pretraining step"]]
    table = Table("", "TFLOP a step", "seconds a step", "GFLOP/s", "share of pretraining's rate", title="Rate")
    for name, all_rates in measured.items():
        rates = [one.rate for one in all_rates]
        steps = [value for one in all_rates for value in one.flops[1:]]
        seconds = [value for one in all_rates for value in one.seconds[1:]]
        shares = [100 * ours / theirs for ours, theirs in zip(rates, first, strict=True)]
        table.add_row(
            name,
            f"{statistics.mean(steps) / 1e12:.4g}",
            f"{statistics.mean(seconds):.4g}",
            f"{statistics.median(rates) / 1e9:.4g}",
            _spread(shares),
        )
    console.print(table)


def bench_passes(config: ModelConfig, batch: PackedBatch, *, device: str) -> None:
    """Counts the passes that are carried out through hooks, and compares them with the formula's forwards."""
    module = distillation(config)
    calls: list[int] = []
    for network, weight in ((module.student, 1), (module.critic, 1), (module.teacher, 2)):  # a pack of both prompts
        assert isinstance(network, SandwichTransformer)
        network.register_forward_pre_hook(lambda *_, weight=weight: calls.append(weight))
    rates = walk(module, batch, num_steps=2 * CADENCE, device=device)
    formula = sum(rates.flops) / forward_flops(config, batch.layouts)
    turns, student_turns = module.critic_steps, module.student_steps
    backward = 2 * (turns + student_turns)
    table = Table("", "passes", title=f"Forward passes over the batch in {turns} iterations")
    table.add_row("forward, carried out", str(sum(calls)))
    table.add_row("backward, two each", str(backward))
    table.add_row("by the formula", f"{formula:.0f}")
    table.add_row("carried out but not needed", f"{sum(calls) + backward - formula:.0f}")
    console.print(table)


def bench_memory(config: ModelConfig, batch: PackedBatch, *, device: str) -> None:
    table = Table("", "state, MiB", "predicted peak, MiB", "measured peak, MiB", title="Memory of an iteration")
    small = min(MAX_ADAPTER_RANK, config.hidden_size // 16)
    for name, rank in (("whole copies", None), (f"adapters of rank {small}", small)):
        workload = Workload(model=partial(SandwichTransformer, config=config), kind="distill", adapter_rank=rank)
        memory = MemoryModel(workload=workload, on_cpu=device == "cpu")
        predicted = memory.device_bytes(batch.layouts, strategy="ddp", num_devices=1, kind="none")
        make = partial(distillation, config, adapters=None if rank is None else LowRank(rank=rank), cadence=1)
        measured = measured_peak(make, batch, device)
        sizes = (predicted.state.total, predicted.peak, measured)
        table.add_row(name, *(f"{size / 2**20:,.0f}" for size in sizes))
    console.print(table)


def measured_peak(make: Callable[[], DMD2Module], batch: PackedBatch, device: str) -> int:
    """Bytes that the allocator has handed out at most, from the networks' making to the third student step."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        walk(make(), batch, num_steps=2, device=device)
        return torch.cuda.max_memory_allocated()
    gc.collect()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        walk(make(), batch, num_steps=2, device=device)
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        profile.export_chrome_trace(file.name)
        events = json.loads(Path(file.name).read_text())["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    return max(accumulate(change for _, change in changes))


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0f} %  [{min(values):.0f} .. {max(values):.0f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="cpu", help="of configs/model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=8, help="of a batch")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in ("lightning", "lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    config: ModelConfig = instantiate(compose_config("pretrain", [f"model={arguments.preset}"]).module.model.config)
    if arguments.tiny:
        config = replace(
            config, num_layers=2, hidden_size=64, head_dim=16, num_query_groups=2, mm_layers=(0,), gelu7_layers=(0,)
        )
    torch.manual_seed(0)
    batch = make_batch(config, arguments.clips)
    bench_rate(config, batch, rounds=arguments.rounds, device=arguments.device)
    bench_passes(config, batch, device=arguments.device)
    bench_memory(config, batch, device=arguments.device)


if __name__ == "__main__":
    main()
