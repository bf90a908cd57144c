"""Train the teacher on latent shards by flow matching."""

from __future__ import annotations

from pathlib import Path

from lightning import Trainer

from hh_train.data.datamodule import LatentDataModule
from hh_train.training.fit import fit_and_export
from hh_train.training.flow_module import FlowMatchingModule


def run(*, module: FlowMatchingModule, datamodule: LatentDataModule, trainer: Trainer, output: str, seed: int) -> Path:
    """Returns the checkpoint folder `output/model`. The command line has set `seed` before the weights were drawn."""
    del seed
    return fit_and_export(module, datamodule, trainer, output=output, stage="pretrain")
