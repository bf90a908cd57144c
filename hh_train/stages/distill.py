"""Distill the teacher into a student of few steps, with DMD2."""

from __future__ import annotations

from pathlib import Path

from lightning import Trainer

from hh_train.data.datamodule import LatentDataModule
from hh_train.training.dmd2.module import DMD2Module
from hh_train.training.fit import fit_and_export


def run(*, module: DMD2Module, datamodule: LatentDataModule, trainer: Trainer, output: str, seed: int) -> Path:
    """Returns the checkpoint folder `output/model`. The command line has seeded with `seed`."""
    del seed
    return fit_and_export(module, datamodule, trainer, output=output, stage="distill")
