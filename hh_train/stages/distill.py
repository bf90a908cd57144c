"""Distill the teacher into a student of few steps, with DMD2 or by one of the methods to compare it with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning import Callback, Trainer

from hh_train.data.datamodule import LatentDataModule
from hh_train.metrics.speech.backend import SpeechRecognizer
from hh_train.training.dmd2.module import DMD2Module
from hh_train.training.dmd2.preconditions import require_modalities, require_turns
from hh_train.training.dmd2.sample_watch import SampleWatch
from hh_train.training.fit import fit_and_export


def run(
    *,
    module: DMD2Module,
    datamodule: LatentDataModule,
    trainer: Trainer,
    output: str,
    seed: int,
    recognizer: SpeechRecognizer | None = None,
) -> Path:
    """Returns the checkpoint folder `output/model`. The command line has seeded with `seed`.

    Args:
        module, datamodule, trainer: what trains, on what, and how.
        output: folder of the run.
        recognizer: hears the samples of the trainer's `SampleWatch`, which keeps the student that speaks best; None
            does not listen.

    Raises ValueError, before training, for settings that do not go together and for data without a modality that is to
    be learnt.
    """
    del seed
    if recognizer is not None:
        _listen(trainer, recognizer)
    if not (Path(output) / "model").is_dir():
        datamodule.setup()
        require_modalities(datamodule, module.weights)
        require_turns(trainer, batches_per_turn=module.cadence.batches_per_turn)
    return fit_and_export(
        module, datamodule, trainer, output=output, stage="distill", teacher=module.teacher_fingerprint
    )


def _listen(trainer: Trainer, recognizer: SpeechRecognizer) -> None:
    callbacks: Sequence[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    watches = [callback for callback in callbacks if isinstance(callback, SampleWatch)]
    if not watches:
        raise ValueError(
            "got a recognizer, but the trainer makes no samples that it could hear: keep SampleWatch among "
            "trainer.callbacks, or leave the recognizer out"
        )
    for watch in watches:
        watch.recognizer = recognizer
