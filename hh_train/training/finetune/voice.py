"""Whether a model forgets how to speak while it learns something else, and when to stop."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning import Callback, LightningModule, Trainer

from hh_train.data.shards.format import read_clips_to_sample, read_manifest
from hh_train.flow.guidance import Guidance
from hh_train.flow.solvers import Solver
from hh_train.inference.codecs import tokenizers_of
from hh_train.inference.generate import ClipGenerator
from hh_train.metrics.speech.backend import SpeechRecognizer
from hh_train.runtime.distributed import is_rank_zero
from hh_train.training.fit import Exporting
from hh_train.training.heard import word_errors
from hh_train.types import ClipMetadata, LatentClip

log = logging.getLogger(__name__)

AUDIO_LOSS = "validation/audio"
FILE = "voice.jsonl"


class VoiceWatch(Callback):
    """Compares, at each validation, the held-out loss of sound and the words that are heard in generated clips with
    those of the base, and ends the training where the voice goes.

    The first validation, before the first step, is the base's. Whatever is measured goes to the loggers and, a line of
    JSON each, to `output/voice.jsonl`.

    Args:
        shards: folder whose validation split (or where it has none, whose training split) gives the prompts.
        output: of the run.
        solver, guidance: how to sample.
        recognizer: hears the clips; None watches the loss alone.
        num_clips: prompts to speak.
        most_loss_ratio: stop where the loss is more than so many times the base's.
        most_added_errors: stop where the share of wrong words is larger than the base's by more than this.
        patience: validations in a row beyond a limit until it stops.

    Raises ValueError for a patience below 1.
    """

    def __init__(
        self,
        *,
        shards: str,
        output: str,
        solver: Solver,
        guidance: Guidance,
        recognizer: SpeechRecognizer | None = None,
        num_clips: int = 8,
        most_loss_ratio: float = 1.1,
        most_added_errors: float = 0.2,
        patience: int = 2,
    ) -> None:
        if patience < 1:
            raise ValueError(f"got patience {patience}, wanted 1 or more")
        self.shards, self.output = shards, Path(output)
        self.solver, self.guidance, self.recognizer = solver, guidance, recognizer
        self.num_clips, self.patience = num_clips, patience
        self.limits = {"audio_loss": most_loss_ratio, "word_errors": most_added_errors}
        self.base: dict[str, float] = {}
        self.latest: dict[str, float] = {}
        self._beyond = 0
        self._wanted: list[tuple[LatentClip, ClipMetadata]] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        reasons = self.judge(self._measured(trainer, pl_module))
        self._record(trainer, reasons)
        if self.is_over:
            log.warning("stopping at step %d, since the voice goes: %s", trainer.global_step, "; ".join(reasons))
            trainer.should_stop = True

    def judge(self, measured: Mapping[str, float]) -> Sequence[str]:
        """Takes in what a validation measured, the first as the base's, and returns what is beyond its limit."""
        self.latest = dict(measured)
        self.base = self.base or dict(measured)
        reasons = self.reasons()
        self._beyond = self._beyond + 1 if reasons else 0
        return reasons

    @property
    def is_over(self) -> bool:
        """Whether its patience is."""
        return self._beyond >= self.patience

    def reasons(self) -> Sequence[str]:
        """What is beyond its limit."""
        found = []
        loss, of_base = self.latest.get("audio_loss"), self.base.get("audio_loss")
        if loss is not None and of_base is not None and not loss <= self.limits["audio_loss"] * of_base:
            found.append(f"the held-out loss of sound is {loss:.4g}, the base's is {of_base:.4g}")
        errors, before = self.latest.get("word_errors"), self.base.get("word_errors")
        if errors is not None and before is not None and not errors <= before + self.limits["word_errors"]:
            found.append(f"{errors:.0%} of the words are wrong, the base has {before:.0%}")
        return found

    def state_dict(self) -> dict[str, Any]:
        return {"base": self.base, "latest": self.latest, "beyond": self._beyond}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base, self.latest, self._beyond = state_dict["base"], state_dict["latest"], state_dict["beyond"]

    def _measured(self, trainer: Trainer, module: LightningModule) -> dict[str, float]:
        found = {}
        own = trainer.callback_metrics.get(AUDIO_LOSS)
        sums = torch.tensor([0.0 if own is None else float(own), float(own is not None)], dtype=torch.float64)
        total, count = trainer.strategy.reduce(sums.to(trainer.strategy.root_device), reduce_op="sum").tolist()
        if count:  # the mean over the processes that have sound, so that all decide alike
            found["audio_loss"] = total / count
        if self.recognizer is not None and (errors := self._word_errors(module)) is not None:
            found["word_errors"] = errors
        return found

    def _word_errors(self, module: LightningModule) -> float | None:
        """Every process generates the same clips, as a sharded model needs all of them to."""
        assert self.recognizer is not None
        if not self._wanted:
            self._wanted = list(read_clips_to_sample(self.shards, max_clips=self.num_clips))
        with cast(Exporting, module).exporting() as model:
            was_training = model.training
            generator = ClipGenerator(
                model=model.eval(),
                solver=self.solver,
                guidance=self.guidance,
                tokenizers=tokenizers_of(self.shards),
                frames_per_second=read_manifest(self.shards).frames_per_second,
            )
            made = generator.generate([clip for clip, _ in self._wanted], seed=0)
            model.train(was_training)
        return word_errors(self.recognizer, [one.clip for one in made], [known for _, known in self._wanted])

    def _record(self, trainer: Trainer, reasons: Sequence[str]) -> None:
        if not is_rank_zero():
            return
        named = {f"voice/{name}": value for name, value in self.latest.items()}
        for logger in trainer.loggers:
            logger.log_metrics(named, step=trainer.global_step)
        self.output.mkdir(parents=True, exist_ok=True)
        record = {"step": trainer.global_step, **self.latest, "base": self.base, "beyond": list(reasons)}
        with (self.output / FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
