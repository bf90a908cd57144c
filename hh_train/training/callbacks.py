"""What watches a training run: its speed, and sample clips with sound."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from hh_train.data.media.files import write_clip
from hh_train.data.shards.format import read_clips_to_sample, read_manifest
from hh_train.flow.guidance import Guidance
from hh_train.flow.solvers import Solver
from hh_train.inference.codecs import tokenizers_of
from hh_train.inference.generate import ClipGenerator
from hh_train.training.fit import Exporting
from hh_train.types import LatentClip, PackedBatch


class Throughput(Callback):
    """Logs clips, tokens and seconds per step and, for modules that know their `step_flops`, TFLOP/s and MFU.

    MFU is the share of `peak_teraflops` per device; None measures the device's rate of square matrix products in
    bfloat16 when training starts. The first step after a start is left out.
    """

    def __init__(self, *, every_steps: int = 20, peak_teraflops: float | None = None) -> None:
        self.every_steps = every_steps
        self.peak_teraflops = peak_teraflops
        self._start = 0.0
        self._steps = self._clips = self._tokens = 0
        self._flops = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if self.peak_teraflops is None:
            self.peak_teraflops = matmul_teraflops(pl_module.device, torch.bfloat16)
        self._steps = -1

    def on_train_batch_end(
        self,
        trainer: Trainer,  # noqa: ARG002
        pl_module: LightningModule,
        outputs: Any,  # noqa: ARG002
        batch: PackedBatch,
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        self._steps += 1
        if self._steps > 0:
            self._clips += batch.num_clips
            self._tokens += batch.num_tokens
            step_flops = getattr(pl_module, "step_flops", None)
            self._flops += 0.0 if step_flops is None else step_flops(batch)
        if self._steps == self.every_steps:
            self._report(pl_module)
        if self._steps in (0, self.every_steps):
            self._steps = self._clips = self._tokens = 0
            self._flops, self._start = 0.0, time.perf_counter()

    def _report(self, pl_module: LightningModule) -> None:
        seconds = time.perf_counter() - self._start
        pl_module.log("speed/seconds_per_step", seconds / self._steps)
        pl_module.log("speed/clips_per_second", self._clips / seconds)
        pl_module.log("speed/tokens_per_second", self._tokens / seconds)
        if self._flops and self.peak_teraflops:
            teraflops = self._flops / seconds / 1e12
            pl_module.log("speed/teraflops", teraflops)
            pl_module.log("speed/mfu", teraflops / self.peak_teraflops, prog_bar=True)


def matmul_teraflops(device: torch.device, dtype: torch.dtype) -> float:
    """Measured rate of square matrix products, in TFLOP/s: the best of a few."""
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device).to(dtype)
    best = float("inf")
    for _ in range(6):
        start = time.perf_counter()
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e12


class SampleClips(Callback):
    """Generates the same held-out prompts with the same noise every so many steps, as mp4 with sound.

    Args:
        shards: folder whose validation split (or where it has none, whose training split) gives prompts and sizes, and
            whose codecs decode.
        solver, guidance: how to sample.
        output: samples go to `output/step-XXXXXXX/KEY.mp4`, and to W&B when it is among the loggers.
        every_steps: of the trainer's global step.
        num_clips: prompts to sample.
        from_start: whether the network is sampled before the first step too, to look at the others beside it.
    """

    def __init__(
        self,
        *,
        shards: str,
        solver: Solver,
        guidance: Guidance,
        output: str,
        every_steps: int,
        num_clips: int = 2,
        from_start: bool = False,
    ) -> None:
        self.shards = shards
        self.solver = solver
        self.guidance = guidance
        self.output = Path(output)
        self.every_steps = every_steps
        self.num_clips = num_clips
        self.from_start = from_start
        self._requests: list[LatentClip] = []
        self._sampled_at = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._sampled_at = trainer.global_step  # not 0 in a resumed run
        if self.from_start and trainer.global_step == 0:
            self._sample(trainer, pl_module)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ARG002
        batch: PackedBatch,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        if trainer.global_step // self.every_steps == self._sampled_at // self.every_steps:
            return
        self._sampled_at = trainer.global_step
        self._sample(trainer, pl_module)

    def _sample(self, trainer: Trainer, module: LightningModule) -> None:
        if not self._requests:
            self._requests = [clip for clip, _ in read_clips_to_sample(self.shards, max_clips=self.num_clips)]
        with cast(Exporting, module).exporting() as model:
            generator = ClipGenerator(
                model=model,
                solver=self.solver,
                guidance=self.guidance,
                tokenizers=tokenizers_of(self.shards),
                frames_per_second=read_manifest(self.shards).frames_per_second,
            )
            samples = generator.generate(self._requests, seed=0)
        if not trainer.is_global_zero:
            return
        folder = self.output / f"step-{trainer.global_step:07d}"
        folder.mkdir(parents=True, exist_ok=True)
        for sample in samples:
            write_clip(folder / f"{sample.key}.mp4", sample.clip)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                keys = [sample.key for sample in samples]
                logger.log_video(
                    "samples", [str(folder / f"{key}.mp4") for key in keys], caption=keys, format=["mp4"] * len(keys)
                )
