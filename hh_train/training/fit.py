"""One training run from start or resume to the exported checkpoint folder, whatever is trained."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from lightning import LightningModule, Trainer

from hh_train.data.datamodule import LatentDataModule
from hh_train.model.transformer import SandwichTransformer
from hh_train.training.checkpoints import Provenance, export_checkpoint, resume_path

log = logging.getLogger(__name__)


@runtime_checkable
class Exporting(Protocol):
    """What a training module says about its result."""

    @property
    def exported_model(self) -> SandwichTransformer: ...

    @property
    def exported_steps(self) -> int:
        """Optimizer steps of the exported network."""
        ...


def fit_and_export(
    module: LightningModule, datamodule: LatentDataModule, trainer: Trainer, *, output: str, stage: str
) -> Path:
    """Trains, from an interrupted run's newest checkpoint if there is one; returns the folder `output/model`.

    A run that is done already is left as it is.
    """
    folder = Path(output) / "model"
    if folder.is_dir():
        log.info("%s is there already: nothing to do (remove it or choose another output to train again)", folder)
        return folder
    checkpoint = resume_path(trainer)
    if checkpoint:
        log.info("resuming from %s", checkpoint)
    try:
        trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=False)
    except SystemExit as ended:  # what Lightning makes of an interrupt
        raise KeyboardInterrupt from ended
    exporting = cast(Exporting, module)
    provenance = Provenance(
        stage=stage, num_steps=exporting.exported_steps, tokenizers=datamodule.manifest.fingerprints()
    )
    export_checkpoint(exporting.exported_model, folder, provenance=provenance)
    log.info("wrote %s", folder)
    return folder
