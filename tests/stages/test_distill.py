"""Distillation from its configuration, from a teacher that the stage before has trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from lightning import Trainer

from hh_train.data.datamodule import LatentDataModule
from hh_train.data.shards.manifest import Manifest
from hh_train.metrics.speech.recognizer import Recognizer
from hh_train.model.checkpoint import load_model, read_config
from hh_train.model.lora.fingerprint import folder_fingerprint
from hh_train.stages import distill as stage
from hh_train.training.checkpoints import Provenance
from hh_train.training.dmd2.module import DMD2Module
from hh_train.training.dmd2.sample_watch import SampleWatch

WATCH = (
    "{_target_:hh_train.training.dmd2.sample_watch.SampleWatch,shards:${paths.shards},output:${output},"
    "every_student_steps:1,solver:${module.rollout.sampler},guidance:{_target_:hh_train.flow.guidance.Guidance},"
    "teacher_solver:${module.rollout.sampler},teacher_guidance:{_target_:hh_train.flow.guidance.Guidance}}"
)


def test_the_student_has_the_teachers_shape(student: Path, teacher: Path, road: Path) -> None:
    assert student == road / "distill" / "model"
    assert read_config(student) == read_config(teacher)
    provenance = Provenance.read(student)
    assert provenance is not None
    assert (provenance.stage, provenance.num_steps) == ("distill", 2)
    assert provenance.teacher == folder_fingerprint(teacher) != folder_fingerprint(student)
    assert provenance.tokenizers == Manifest.load(road / "shards").fingerprints()
    saved = yaml.safe_load((student / "training_config.yaml").read_text())
    assert saved["_target_"] == "hh_train.stages.distill.run"
    assert saved["module"]["teacher"]["folder"] == str(teacher)


def test_the_student_is_near_the_teacher_and_not_the_same(student: Path, teacher: Path) -> None:
    """It starts as a copy and takes two steps, at which Adam moves every weight by about the learning rate of 1e-4."""
    ours, theirs = load_model(student).state_dict(), load_model(teacher).state_dict()
    moved = [float((ours[name] - theirs[name]).abs().max()) for name in theirs if name != "adapter.rope.bands"]
    assert max(moved) > 1e-5
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-3) for name in theirs)


def test_samples_are_made_with_the_students_sampler(student: Path, road: Path) -> None:
    """Four batches of one critic step, two of them with a student step: samples at 3 and 6 optimizer steps."""
    folders = sorted(folder.name for folder in (road / "distill" / "samples").iterdir())
    assert folders == ["step-0000003", "step-0000006"]


def test_a_second_run_does_nothing(
    student: Path, distill: Callable[..., Path], times: Callable[[Path], dict[Path, int]]
) -> None:
    before = times(student.parent)
    assert distill() == student
    assert times(student.parent) == before


RECOGNIZER = (
    "recognizer={_target_:hh_train.metrics.speech.recognizer.Recognizer,config:{_target_:"
    "hh_train.metrics.speech.recognizer.RecognizerConfig,characters:[a],languages:{en:[1]},width:8,num_blocks:1}}"
)


@pytest.mark.usefixtures("student")
def test_the_recognizer_hears_the_samples(distill: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    trainers: list[Trainer] = []

    def keep(module: DMD2Module, datamodule: LatentDataModule, trainer: Trainer, **settings: object) -> Path:
        trainers.append(trainer)
        return Path()

    monkeypatch.setattr(stage, "fit_and_export", keep)
    distill(RECOGNIZER, f"trainer.callbacks=[{WATCH}]")
    (watch,) = (callback for callback in trainers[0].callbacks if isinstance(callback, SampleWatch))
    assert isinstance(watch.recognizer, Recognizer)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("module.teacher.folder=${paths.distill}/model", "is a distilled student"),
        ("datamodule.audio_to_video_share=1.0", "every clip's sound is given"),
        ("+trainer.accumulate_grad_batches=2", "set module.batches_per_turn"),
        ("module.rollout.sampler.levels=[0.5,0.7,0.0]", "noise levels must decrease"),
        ("module.critic_flow=null", "matching needs a critic"),
        (RECOGNIZER, "no samples that it could hear"),
    ],
)
@pytest.mark.usefixtures("student")
def test_what_cannot_go_well_is_refused_before_training(
    distill: Callable[..., Path], road: Path, override: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        distill(override, "output=${paths.root}/refused")
    assert {file.name for file in (road / "refused").iterdir()} <= {"config.yaml"} | {
        f"config.{index}.yaml" for index in range(1, 9)
    }


def test_adapters_make_a_checkpoint_like_any_other(distill: Callable[..., Path], teacher: Path) -> None:
    adapters = "module.adapters={_target_:hh_train.training.dmd2.adapters.LowRank,rank:2}"
    made = distill(adapters, "output=${paths.root}/adapted")
    ours, theirs = load_model(made).state_dict(), load_model(teacher).state_dict()
    assert ours.keys() == theirs.keys()
    adapted = [name for name in theirs if not torch.equal(ours[name], theirs[name])]
    assert adapted and all(name.startswith("block.layers") and name.endswith(("_proj.weight", "_qkv.weight"))
                           for name in adapted)  # fmt: skip
