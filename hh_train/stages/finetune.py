"""Fine-tune a checkpoint on one's own clips: adapters (LoRA, DoRA) or the weights themselves."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from lightning import Trainer
from rich.console import Console

from hh_train.data.datamodule import LatentDataModule
from hh_train.data.loading.shard_sets import open_shard_sets
from hh_train.data.selection.accounting import Accounting
from hh_train.runtime.distributed import is_rank_zero
from hh_train.stages.tokenize_summary import print_accounting
from hh_train.training.callbacks import SampleClips
from hh_train.training.checkpoints import resume_path
from hh_train.training.finetune.cost import Cost, predicted_cost, workload_of
from hh_train.training.finetune.export import Export
from hh_train.training.finetune.guards import Guards, Survey, require_base, survey_run
from hh_train.training.finetune.held_out import HeldOutLosses
from hh_train.training.finetune.module import FineTuningModule
from hh_train.training.finetune.voice import VoiceWatch
from hh_train.training.fit import fit_or_resume

log = logging.getLogger(__name__)


def run(
    *,
    checkpoint: str,
    module: FineTuningModule,
    datamodule: LatentDataModule,
    trainer: Trainer,
    guards: Guards,
    export: Export,
    output: str,
    samples: SampleClips | None = None,
    voice: VoiceWatch | None = None,
    teacher: str | None = None,
    seed: int = 0,
    dry_run: bool = False,
) -> Path | Survey:
    """Says first what the run will be and what is wrong with it. A killed run goes on; one that is done stays.

    Args:
        checkpoint: where the base lies, for the configuration: `module.base` reads it.
        module: base and adapters, or base and rates.
        datamodule: the clips to learn; of several sets the first. The others keep what is known.
        trainer: with `max_steps`.
        guards: limits beyond which a warning is due.
        export: what is written.
        output: folder of the run.
        samples: clips at fixed prompts and seeds, from the base on.
        voice: ends the run where the voice goes.
        teacher: of a student, for the configuration: `module.anchor` reads it.
        seed: set by the command line before this.
        dry_run: say what the run would be, and end there: no weights are read.

    Returns:
        The folder `output/model` (or `output/adapter`, where nothing is merged); of a dry run the survey.

    Raises:
        ValueError: the base is of other codecs, rates or sizes than the shards, or settings do not go together.
    """
    del checkpoint, teacher, seed
    if trainer.max_steps < 1:
        raise ValueError(f"got trainer.max_steps={trainer.max_steps}, wanted how many steps to train")
    done = export.finished(output, adapted=module.adapters is not None)
    if done is not None and not dry_run:
        log.info("%s is there already: nothing to do (remove it or choose another output to train again)", done)
        return done
    datamodule.setup()
    owner = f"the base {module.base.folder}"
    require_base(datamodule.manifest, module.base.architecture, module.base.provenance, owner=owner)
    survey = _say_what_will_be(module, datamodule, trainer, guards, export, output)
    if dry_run:
        return survey
    held_out = HeldOutLosses()
    watching = [callback for callback in (samples, voice, held_out) if callback is not None]
    cast(Any, trainer).callbacks[:0] = watching  # before the one that writes checkpoints, whose place is the last
    if resume_path(trainer) is None:
        trainer.validate(module, datamodule=datamodule, verbose=False)
    fit_or_resume(module, datamodule, trainer)
    for warning in held_out.warnings():
        log.warning(warning)
    scores = {name: float(value) for name, value in trainer.callback_metrics.items() if _is_score(name)}
    if voice is not None:
        scores |= {f"voice/{name}": value for name, value in voice.latest.items()}
    folder = export.write(module, datamodule.manifest, output, scores=scores)
    log.info("wrote %s", folder)
    return folder


def _is_score(name: str) -> bool:
    """A held-out loss over all noise levels."""
    return name.startswith("validation/") and "_t" not in name


def _say_what_will_be(
    module: FineTuningModule,
    datamodule: LatentDataModule,
    trainer: Trainer,
    guards: Guards,
    export: Export,
    output: str,
) -> Survey:
    workload = workload_of(module)
    survey = survey_run(
        datamodule,
        num_steps=trainer.max_steps,
        trained_parameters=workload.trained_parameters,
        world_size=trainer.world_size,
        num_captions=guards.num_captions,
        trigger_word=export.trigger_word,
    )
    if not is_rank_zero():
        return survey
    cost = predicted_cost(module, workload, datamodule, trainer)
    warnings = [*guards.warnings(survey), *cost.warnings()]
    _print(Console(), datamodule, survey, cost, warnings)
    file = Path(output) / "plan.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    record = {"survey": survey.to_json(), "cost": cost.to_json(), "warnings": warnings}
    file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return survey


def _print(console: Console, datamodule: LatentDataModule, survey: Survey, cost: Cost, warnings: Sequence[str]) -> None:
    for one in open_shard_sets(datamodule.shards, datamodule.reading):
        if one.manifest.accounting:
            console.print(f"{one.storage}:", markup=False, highlight=False)
            print_accounting(console, Accounting.from_json(one.manifest.accounting))
    console.print(survey.table())
    console.print(cost.table())
    for warning in warnings:
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True, markup=False, highlight=False)
