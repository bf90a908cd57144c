"""Distill the teacher into a student of few steps, with DMD2 or by one of the methods to compare it with."""

from __future__ import annotations

from pathlib import Path

from lightning import Trainer

from hh_train.data.datamodule import LatentDataModule
from hh_train.training.dmd2.module import DMD2Module
from hh_train.training.dmd2.preconditions import require_modalities, require_turns
from hh_train.training.fit import fit_and_export


def run(*, module: DMD2Module, datamodule: LatentDataModule, trainer: Trainer, output: str, seed: int) -> Path:
    """Returns the checkpoint folder `output/model`. The command line has seeded with `seed`.

    Raises ValueError, before training, for settings that do not go together and for data without a modality that is to
    be learnt.
    """
    del seed
    if not (Path(output) / "model").is_dir():
        datamodule.setup()
        require_modalities(datamodule, module.weights)
        require_turns(trainer, batches_per_turn=module.cadence.batches_per_turn)
    return fit_and_export(
        module, datamodule, trainer, output=output, stage="distill", teacher=module.teacher_fingerprint
    )
