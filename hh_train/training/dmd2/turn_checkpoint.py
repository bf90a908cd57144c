"""Checkpoints of a training that counts turns."""

from __future__ import annotations

import warnings
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from hh_train.training.dmd2.cadence import Cadence


class TurnCheckpoint(ModelCheckpoint):
    """Keeps `dirpath/last.ckpt`, written after every so many critic steps and never within a turn: gradients that are
    gathered over several batches are in no checkpoint.
    """

    def __init__(self, *, dirpath: str, every_critic_steps: int) -> None:
        super().__init__(dirpath=dirpath, save_last=True, save_top_k=0, every_n_train_steps=1)
        if every_critic_steps < 1:
            raise ValueError(f"got every_critic_steps {every_critic_steps}, wanted 1 or more")
        self.every_critic_steps = every_critic_steps

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        cadence = getattr(pl_module, "cadence", None)
        if not isinstance(cadence, Cadence):
            raise TypeError(f"got a {type(pl_module).__name__}, wanted a module with a cadence")
        if cadence.is_between_turns and cadence.critic_steps % self.every_critic_steps == 0:
            with warnings.catch_warnings():  # the weights after the steps are those that are wanted
                warnings.filterwarnings("ignore", message="Using ModelCheckpoint with manual optimization")
                super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
