"""One training run from start or resume to the exported checkpoint folder, whatever is trained."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
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

    def exporting(self) -> AbstractContextManager[SandwichTransformer]:
        """The network to use after training, inside."""
        ...

    @property
    def exported_steps(self) -> int:
        """Optimizer steps of the exported network."""
        ...


def fit_and_export(
    module: LightningModule,
    datamodule: LatentDataModule,
    trainer: Trainer,
    *,
    output: str,
    stage: str,
    teacher: str | None = None,
) -> Path:
    """Trains, from an interrupted run's newest checkpoint if there is one; returns the folder `output/model`.

    A run that is done already is left as it is. `teacher` is the fingerprint of what is distilled.
    """
    folder = Path(output) / "model"
    if folder.is_dir():
        log.info("%s is there already: nothing to do (remove it or choose another output to train again)", folder)
        return folder
    fit_or_resume(module, datamodule, trainer)
    exporting = cast(Exporting, module)
    provenance = Provenance.of(datamodule.manifest, stage=stage, num_steps=exporting.exported_steps, teacher=teacher)
    with exporting.exporting() as model:
        export_checkpoint(model, folder, provenance=provenance)
    log.info("wrote %s", folder)
    return folder


def fit_or_resume(module: LightningModule, datamodule: LatentDataModule, trainer: Trainer) -> None:
    """Trains to the end, from the newest checkpoint of an interrupted run if there is one.

    Raises KeyboardInterrupt when the run is interrupted again.
    """
    checkpoint = resume_path(trainer)
    if checkpoint:
        log.info("resuming from %s", checkpoint)
    try:
        trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=False)
    except SystemExit as ended:  # what Lightning makes of an interrupt
        raise KeyboardInterrupt from ended
