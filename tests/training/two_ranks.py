"""Trains tiny models for a few steps on two clips and exports them: in one process on both clips at once, or under
torchrun on one clip a rank, with whole (ddp) or sharded (fsdp) networks. Started by this folder's conftest.py.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch.utils.data import DataLoader, IterableDataset

from hh_train.data.packing import pack
from hh_train.flow.guidance import Guidance
from hh_train.flow.noise_levels import ShiftedUniform
from hh_train.flow.solvers import RenoiseSolver
from hh_train.model.checkpoint import save_model
from hh_train.model.config import ModelConfig
from hh_train.model.lora import AdapterRecipe, AdapterRule, write_adapter
from hh_train.model.transformer import SandwichTransformer
from hh_train.runtime.distributed import is_rank_zero, rank, world_size
from hh_train.training.checkpoints import Provenance, export_checkpoint
from hh_train.training.dmd2.adversarial import Adversarial
from hh_train.training.dmd2.alignment import ImplicitAlignment
from hh_train.training.dmd2.critic import CriticFlow
from hh_train.training.dmd2.matching import DistributionMatching
from hh_train.training.dmd2.module import DMD2Module
from hh_train.training.dmd2.rollout import BackwardSimulation
from hh_train.training.finetune.base import BaseModel
from hh_train.training.finetune.module import FLOAT32, FineTuningModule
from hh_train.training.flow_module import FlowMatchingModule
from hh_train.training.optim import AdamWRecipe
from hh_train.training.sharding import ShardedDataParallelStrategy
from hh_train.types import LatentClip, PackedBatch

RECIPE = AdamWRecipe(learning_rate=1e-3)


class OwnClips(IterableDataset[PackedBatch]):
    """This rank's clips of the two."""

    def __iter__(self) -> Iterator[PackedBatch]:
        generator = torch.Generator().manual_seed(0)
        clips = [
            LatentClip(
                key=str(frames),
                video=torch.randn(3, frames, 4, 2, generator=generator),
                audio=torch.randn(4 * frames - 3, 5, generator=generator),
                text=torch.randn(frames, 7, generator=generator),
                num_given_frames=frames % 2,
            )
            for frames in (2, 5)
        ]
        while True:
            yield pack(clips[rank() :: world_size()], patch=(1, 2, 2))


class Losses(Callback):
    """Collects the loss, which is logged as its mean over ranks."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        self.values.append(float(trainer.callback_metrics["train/loss"]))


def strategy_of(name: str, num_ranks: int) -> str | Strategy:
    if name == "ddp":
        return DDPStrategy(find_unused_parameters=True)
    return ShardedDataParallelStrategy() if name == "fsdp" else "auto"


def make_model() -> SandwichTransformer:
    torch.manual_seed(0)
    config = ModelConfig(
        num_layers=3, hidden_size=32, head_dim=16, num_query_groups=1, video_in_channels=12, audio_in_channels=5,
        text_in_channels=7, mm_layers=(0, 2), gelu7_layers=(0,),
    )  # fmt: skip
    return SandwichTransformer(config=config, compute_dtype="float32")


def fit(module: LightningModule, strategy: str, *callbacks: Callback, max_steps: int) -> None:
    num_ranks = int(os.environ.get("WORLD_SIZE", "1"))
    trainer = Trainer(
        accelerator="cpu", devices=num_ranks, strategy=strategy_of(strategy, num_ranks), max_steps=max_steps,
        max_epochs=-1, callbacks=list(callbacks), logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(OwnClips(), batch_size=None))


def export(model: SandwichTransformer, folder: Path) -> None:
    export_checkpoint(model, folder, provenance=Provenance(stage="test", num_steps=0, tokenizers={}))


def flow_matching(strategy: str, output: Path) -> None:
    module = FlowMatchingModule(
        model=make_model(), noise_levels=ShiftedUniform(), optimizer=RECIPE, audio_weight=2.0, ema_decay=0.5
    )
    losses = Losses()
    fit(module, strategy, losses, max_steps=3)
    export(module.exported_model, output / "teacher")
    if is_rank_zero():
        (output / "losses.json").write_text(json.dumps(losses.values))


def distillation(strategy: str, output: Path) -> None:
    teacher = make_model()
    for parameter in teacher.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    module = DMD2Module(
        teacher=teacher,
        null_text=torch.zeros(2, 7),
        rollout=BackwardSimulation(sampler=RenoiseSolver(num_steps=2)),
        matching=DistributionMatching(guidance=Guidance(video=2.0, audio=2.0)),
        critic_flow=CriticFlow(),
        adversarial=Adversarial(student_weight=1.0, critic_weight=1.0, r1_weight=0.1, width=16),
        alignment=ImplicitAlignment(retained=0.9),
        student_optimizer=RECIPE,
        critic_optimizer=RECIPE,
        num_student_steps=2,
        critic_steps_per_student_step=2,
        ema_decay=0.5,
    )
    fit(module, strategy, max_steps=-1)
    for name, model in (("student", module.student), ("averaged", module.exported_model), ("critic", module.critic)):
        export(model, output / name)


def finetuning(strategy: str, output: Path) -> None:
    """Adapters beside frozen weights, which each process reads by itself, and all weights."""
    base = output / "base"
    if is_rank_zero() and not base.is_dir():
        model = make_model()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        save_model(model.state_dict(), model.config, base)
    while not base.is_dir():
        time.sleep(0.1)
    for name, adapters in (("adapted", AdapterRecipe(rules=(AdapterRule(rank=2),))), ("tuned", None)):
        module = FineTuningModule(
            base=BaseModel(checkpoint=str(base), compute_dtype="float32"),
            adapters=adapters,
            frozen=FLOAT32,
            noise_levels=ShiftedUniform(),
            optimizer=AdamWRecipe(learning_rate=1e-2),
            ema_decay=0.5,
        )
        fit(module, strategy, max_steps=3)
        with module.exporting() as model:
            if adapters is None:
                export(model, output / name)
            else:
                write_adapter(model, module.adapter, output / f"{name}.safetensors")


if __name__ == "__main__":
    trainings = {"flow_matching": flow_matching, "distillation": distillation, "finetuning": finetuning}
    trainings[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))
    if dist.is_initialized():
        dist.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # gloo's threads may still run when the interpreter ends, which aborts now and then
