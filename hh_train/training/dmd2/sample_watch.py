"""Looks at and listens to a student while it trains, beside its teacher, and keeps the one that speaks best."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from hh_train.data.shards.format import read_clips_to_sample, read_manifest
from hh_train.flow.guidance import Guidance
from hh_train.flow.solvers import Solver
from hh_train.inference.codecs import tokenizers_of
from hh_train.inference.generate import ClipGenerator
from hh_train.metrics.speech.backend import SpeechRecognizer
from hh_train.model.transformer import SandwichTransformer
from hh_train.runtime.distributed import is_rank_zero
from hh_train.tokenizers import Tokenizers
from hh_train.training.checkpoints import Provenance, export_checkpoint
from hh_train.training.dmd2.module import DMD2Module
from hh_train.training.dmd2.monitors import STEPS
from hh_train.training.dmd2.sample_values import mean_values
from hh_train.training.heard import word_errors
from hh_train.types import ClipMetadata, LatentClip

log = logging.getLogger(__name__)

BEST_FOLDER, BEST_FILE = "best", "best.json"


class SampleWatch(Callback):
    """Every so many student steps, makes the same held-out clips with the same two noises and logs their mean values
    as `sample/...`; those of the teacher's are logged beside them as `teacher/...`.

    With a recognizer there is `sample/word_errors` too, the share of wrong words or characters, and the student with
    the fewest so far, the earliest among equals, is exported to `output/best` with its numbers in `output/best.json`.

    Args:
        shards: whose validation split gives prompts and sizes, and whose codecs decode.
        solver, guidance: how the student samples.
        teacher_solver, teacher_guidance: how the teacher does.
        output: folder of the best student and of `samples.jsonl`, a line for each time.
        every_student_steps: how often.
        num_clips: prompts.
        recognizer: hears the clips of prompts that have a transcript; None does not listen.
    """

    def __init__(
        self,
        *,
        shards: str,
        solver: Solver,
        guidance: Guidance,
        teacher_solver: Solver,
        teacher_guidance: Guidance,
        output: str,
        every_student_steps: int,
        num_clips: int = 4,
        recognizer: SpeechRecognizer | None = None,
    ) -> None:
        if min(every_student_steps, num_clips) < 1:
            raise ValueError(f"want 1 or more, got every_student_steps {every_student_steps}, num_clips {num_clips}")
        self.shards = shards
        self.sampling = {"sample": (solver, guidance), "teacher": (teacher_solver, teacher_guidance)}
        self.output = Path(output)
        self.every_student_steps = every_student_steps
        self.num_clips = num_clips
        self.recognizer = recognizer
        self._seen_at = 0
        self._best = math.inf
        self._of_teacher: dict[str, float] | None = None
        self._tokenizers: Tokenizers | None = None
        self._wanted: list[tuple[LatentClip, ClipMetadata]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        self._seen_at = _distillation(pl_module).student_steps

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        module = _distillation(pl_module)
        steps = module.student_steps
        if not module.cadence.is_between_turns or steps == self._seen_at or steps % self.every_student_steps:
            return
        self._seen_at = steps
        if self._of_teacher is None:
            self._of_teacher = self._values(module.networks.teacher_model(), "teacher")
        values = self._values(module.exported_model, "sample")
        for name, value in {**values, f"sample/{STEPS}": float(steps), **self._of_teacher}.items():
            module.log(name, value)
        self._write({"student_steps": steps, **values, **self._of_teacher})
        if values.get("sample/word_errors", math.inf) < self._best:
            self._best = values["sample/word_errors"]
            self._export(trainer, module, values)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "teacher": self._of_teacher}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._best, self._of_teacher = state_dict["best"], state_dict["teacher"]

    def _values(self, model: SandwichTransformer, prefix: str) -> dict[str, float]:
        if self._tokenizers is None:
            self._tokenizers = tokenizers_of(self.shards)
            self._wanted = list(read_clips_to_sample(self.shards, max_clips=self.num_clips))
        solver, guidance = self.sampling[prefix]
        was_training = model.training
        generator = ClipGenerator(
            model=model.eval(),
            solver=solver,
            guidance=guidance,
            tokenizers=self._tokenizers,
            frames_per_second=read_manifest(self.shards).frames_per_second,
        )
        requests = [clip for clip, _ in self._wanted]
        clips, others = ([made.clip for made in generator.generate(requests, seed=seed)] for seed in (0, 1))
        model.train(was_training)
        values: dict[str, float] = dict(mean_values(clips, others))
        if self.recognizer is not None:
            errors = word_errors(self.recognizer, clips, [metadata for _, metadata in self._wanted])
            values |= {} if errors is None else {"word_errors": errors}
        return {f"{prefix}/{name}": value for name, value in values.items()}

    def _export(self, trainer: Trainer, module: DMD2Module, values: Mapping[str, float]) -> None:
        folder = self.output / BEST_FOLDER
        datamodule = getattr(trainer, "datamodule", None)
        fingerprints = {} if datamodule is None else datamodule.manifest.fingerprints()
        provenance = Provenance(
            stage="distill",
            num_steps=module.student_steps,
            tokenizers=fingerprints,
            teacher=module.teacher_fingerprint,
        )
        export_checkpoint(module.exported_model, folder, provenance=provenance)
        if is_rank_zero():
            unfinished = self.output / f".{BEST_FILE}.partial"
            unfinished.write_text(json.dumps({"student_steps": module.student_steps, **values}, indent=1) + "\n")
            unfinished.replace(self.output / BEST_FILE)
        log.info("the best student so far: %.3f word errors at step %d", self._best, module.student_steps)

    def _write(self, record: Mapping[str, Any]) -> None:
        if is_rank_zero():
            self.output.mkdir(parents=True, exist_ok=True)
            with (self.output / "samples.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


def _distillation(module: LightningModule) -> DMD2Module:
    if not isinstance(module, DMD2Module):
        raise TypeError(f"got a {type(module).__name__}, wanted a DMD2Module")
    return module
