"""What is seen and heard of a student while it trains."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer

from hh_train.data.datamodule import LatentDataModule
from hh_train.data.shards.format import read_clips_to_sample, read_null_text
from hh_train.flow.guidance import Guidance
from hh_train.flow.solvers import RenoiseSolver
from hh_train.model.checkpoint import load_model
from hh_train.model.transformer import SandwichTransformer
from hh_train.training.dmd2 import sample_watch
from hh_train.training.dmd2.critic import CriticFlow
from hh_train.training.dmd2.matching import DistributionMatching
from hh_train.training.dmd2.module import DMD2Module
from hh_train.training.dmd2.rollout import BackwardSimulation
from hh_train.training.dmd2.sample_watch import SampleWatch
from hh_train.training.optim import AdamWRecipe
from hh_train.types import ClipMetadata, LatentClip, Prompt


def about(key: str, transcript: str | None, language: str | None = "en") -> ClipMetadata:
    return ClipMetadata(key=key, prompt=Prompt(description=""), transcript=transcript, language=language)


@pytest.fixture
def transcripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clips of `tiny_shards` have none of their own."""

    def read(*arguments: object, **settings: object) -> list[tuple[LatentClip, ClipMetadata]]:
        clips = [clip for clip, _ in read_clips_to_sample(*arguments, **settings)]
        return [(clip, about(clip.key, f"number {word}")) for clip, word in zip(clips, ("zero", "one"), strict=True)]

    monkeypatch.setattr(sample_watch, "read_clips_to_sample", read)


@pytest.mark.usefixtures("transcripts")
def test_values_are_logged_beside_the_teachers_and_the_best_student_is_kept(
    shards_model: SandwichTransformer, tiny_shards: Path, tmp_path: Path, hearing: Callable[..., Any]
) -> None:
    """Two clips, one word each; the teacher is heard once, the student at steps 1 to 3: it is best at step 2."""
    watch = SampleWatch(
        shards=str(tiny_shards), solver=RenoiseSolver(num_steps=1), guidance=Guidance(),
        teacher_solver=RenoiseSolver(num_steps=1), teacher_guidance=Guidance(), output=str(tmp_path),
        every_student_steps=1, num_clips=2,
        recognizer=hearing("number zero", "number one", "", "", "number zero", "", "number zero", ""),
    )  # fmt: skip
    module = DMD2Module(
        teacher=shards_model,
        null_text=read_null_text(tiny_shards),
        rollout=BackwardSimulation(sampler=RenoiseSolver(num_steps=1)),
        matching=DistributionMatching(),
        critic_flow=CriticFlow(),
        student_optimizer=AdamWRecipe(learning_rate=1e-2),
        critic_optimizer=AdamWRecipe(learning_rate=1e-2),
        num_student_steps=3,
        critic_steps_per_student_step=2,
        ema_decay=None,
    )
    trainer = Trainer(
        accelerator="cpu", max_steps=-1, max_epochs=-1, logger=False, callbacks=[watch], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, datamodule=LatentDataModule(shards=str(tiny_shards), patch=(1, 2, 2), tokens_per_batch=200))
    records = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [record["student_steps"] for record in records] == [1, 2, 3]
    errors = [record["sample/word_errors"] for record in records]
    assert records[0]["teacher/word_errors"] < errors[1] == errors[2] < errors[0]
    assert trainer.callback_metrics["sample/student_steps"] == 3
    assert len({record["sample/brightness"] for record in records}) == 3
    assert len({record["teacher/brightness"] for record in records}) == 1
    assert records[0]["sample/seed_diversity"] > 0
    assert float(trainer.callback_metrics["sample/motion"]) == pytest.approx(records[-1]["sample/motion"], rel=1e-5)
    assert json.loads((tmp_path / "best.json").read_text())["student_steps"] == 2
    best, last = load_model(tmp_path / "best").state_dict(), module.exported_model.state_dict()
    assert not torch.equal(best["final_linear_video.weight"], last["final_linear_video.weight"])
