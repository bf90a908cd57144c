"""Distills on a shards folder in processes of their own, some of which kill themselves in the middle of a batch and are
started again. Started by test_module.py with the shards and an output folder.

Each run appends a line for every batch to OUTPUT/NAME.jsonl: where in the cadence it was, and all that was logged.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer

from hh_train.data.datamodule import LatentDataModule
from hh_train.data.shards.format import read_null_text
from hh_train.flow.guidance import Guidance
from hh_train.flow.solvers import RenoiseSolver
from hh_train.model.config import ModelConfig
from hh_train.model.transformer import SandwichTransformer
from hh_train.training.checkpoints import resume_path
from hh_train.training.dmd2.adversarial import Adversarial
from hh_train.training.dmd2.alignment import ImplicitAlignment
from hh_train.training.dmd2.critic import CriticFlow
from hh_train.training.dmd2.matching import DistributionMatching
from hh_train.training.dmd2.module import DMD2Module
from hh_train.training.dmd2.rollout import BackwardSimulation
from hh_train.training.dmd2.turn_checkpoint import TurnCheckpoint
from hh_train.training.optim import AdamWRecipe

KILLED_AT = {"in_a_critic_turn": 7, "in_a_student_turn": 11, "after_a_student_step": 12}
"""Batches; a turn takes two of them, and every third turn is the student's."""


class Record(Callback):
    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        place = (pl_module.cadence.critic_steps, pl_module.cadence.batches)
        values = {name: float(value).hex() for name, value in trainer.callback_metrics.items()}
        with self.file.open("a") as file:
            file.write(json.dumps([place, values]) + "\n")


class Kill(Callback):
    """As `kill -9` would, before the batch's checkpoint."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.batch:
            os.kill(os.getpid(), signal.SIGKILL)


def make_module(shards: Path) -> DMD2Module:
    torch.manual_seed(0)
    config = ModelConfig(
        num_layers=2, hidden_size=32, head_dim=16, num_query_groups=1, video_in_channels=12, audio_in_channels=5,
        text_in_channels=20, mm_layers=(0,), gelu7_layers=(0,),
    )  # fmt: skip
    return DMD2Module(
        teacher=SandwichTransformer(config=config, compute_dtype="float32"),
        null_text=read_null_text(shards),
        rollout=BackwardSimulation(sampler=RenoiseSolver(num_steps=2), simulated_share=0.8),
        matching=DistributionMatching(guidance=Guidance(video=2.0, audio=2.0)),
        critic_flow=CriticFlow(),
        adversarial=Adversarial(student_weight=1.0, critic_weight=1.0, width=16),
        alignment=ImplicitAlignment(),
        student_optimizer=AdamWRecipe(learning_rate=1e-3, warmup_steps=2),
        critic_optimizer=AdamWRecipe(learning_rate=1e-3),
        num_student_steps=3,
        critic_steps_per_student_step=3,
        batches_per_turn=2,
        ema_decay=0.5,
        ema_start=2,
    )


def run(shards: Path, output: Path, name: str, killed_at: int | None) -> None:
    save = TurnCheckpoint(dirpath=str(output / name), every_critic_steps=1)
    kill = [] if killed_at is None else [Kill(killed_at)]
    trainer = Trainer(
        accelerator="cpu", max_steps=-1, max_epochs=-1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Record(output / f"{name}.jsonl"), *kill, save],
        use_distributed_sampler=False,
    )  # fmt: skip
    data = LatentDataModule(shards=str(shards), patch=(1, 2, 2), tokens_per_batch=100, image_to_video_share=0.5)
    module = make_module(shards)
    trainer.fit(module, datamodule=data, ckpt_path=resume_path(trainer), weights_only=False)
    torch.save(module.state_dict(), output / f"{name}.pt")


def apart(*arguments: object) -> int:
    """Runs in a process of its own; its exit status."""
    child = os.fork()
    if child == 0:
        run(*arguments)
        os._exit(0)
    return os.waitpid(child, 0)[1]


if __name__ == "__main__":
    torch.set_num_threads(1)
    shards, output = Path(sys.argv[1]), Path(sys.argv[2])
    assert apart(shards, output, "whole", None) == 0
    for name, batch in KILLED_AT.items():
        assert apart(shards, output, name, batch) == signal.SIGKILL
        assert apart(shards, output, name, None) == 0
