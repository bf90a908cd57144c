"""Checkpoints between turns alone."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from hh_train.training.dmd2.cadence import Cadence
from hh_train.training.dmd2.turn_checkpoint import TurnCheckpoint


class Counting(LightningModule):
    """Walks through a cadence and, as Lightning counts only optimizer steps, takes one for each turn."""

    def __init__(self, num_batches: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.cadence = Cadence(critic_steps_per_student_step=2, batches_per_turn=3)
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.num_batches = num_batches

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        if self.cadence.count_batch():
            self.optimizers().step()
            self.cadence.count_turn()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)

    def train_dataloader(self) -> DataLoader[torch.Tensor]:
        return DataLoader(torch.zeros(self.num_batches, 1))

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        checkpoint["cadence"] = self.cadence.state_dict()


@pytest.mark.parametrize(("num_batches", "saved_at"), [(14, 4), (17, 4), (18, 6)])
def test_the_last_one_is_of_a_turns_end(tmp_path: Path, num_batches: int, saved_at: int) -> None:
    save = TurnCheckpoint(dirpath=str(tmp_path), every_critic_steps=2)
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, callbacks=[save], enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Counting(num_batches))
    saved = torch.load(tmp_path / "last.ckpt", weights_only=False)["cadence"]
    assert (saved["critic_steps"], saved["batches"]) == (saved_at, 0)


def test_an_interval_of_nothing() -> None:
    with pytest.raises(ValueError, match="wanted 1 or more"):
        TurnCheckpoint(dirpath="x", every_critic_steps=0)


def test_a_module_without_a_cadence(tmp_path: Path) -> None:
    save = TurnCheckpoint(dirpath=str(tmp_path), every_critic_steps=1)
    with pytest.raises(TypeError, match="wanted a module with a cadence"):
        save.on_train_batch_end(Mock(spec=Trainer), LightningModule(), None, None, 0)
