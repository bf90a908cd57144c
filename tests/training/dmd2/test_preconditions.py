"""What is refused before training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from hh_train.data.datamodule import LatentDataModule
from hh_train.model.transformer import SandwichTransformer
from hh_train.training.checkpoints import Provenance, export_checkpoint
from hh_train.training.dmd2.preconditions import load_teacher, require_modalities, require_turns
from hh_train.training.dmd2.turn_checkpoint import TurnCheckpoint
from hh_train.types import Modality

BOTH = {Modality.VIDEO: 1.0, Modality.AUDIO: 1.0}


@pytest.fixture
def exported(tiny_model: SandwichTransformer, tmp_path: Path) -> Callable[[str], str]:
    def export(stage: str) -> str:
        provenance = Provenance(stage=stage, num_steps=7, tokenizers={})
        export_checkpoint(tiny_model, tmp_path / stage, provenance=provenance)
        return str(tmp_path / stage)

    return export


def test_a_teacher_is_loaded_as_it_is(exported: Callable[[str], str], tiny_model: SandwichTransformer) -> None:
    teacher = load_teacher(exported("pretrain"), compute_dtype="float32")
    for name, tensor in tiny_model.state_dict().items():
        assert torch.equal(teacher.state_dict()[name], tensor)


def test_a_student_is_no_teacher_unless_it_is_said_to_be(exported: Callable[[str], str]) -> None:
    with pytest.raises(ValueError, match=r"is a distilled student \(7 steps\).*accept_distilled"):
        load_teacher(exported("distill"))
    assert isinstance(load_teacher(exported("distill"), accept_distilled=True), SandwichTransformer)


def make_trainer(*callbacks: object, **settings: Any) -> Trainer:
    return Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, callbacks=list(callbacks), **settings)


def test_gathering_and_clipping_belong_to_the_module(tmp_path: Path) -> None:
    turns = TurnCheckpoint(dirpath=str(tmp_path), every_critic_steps=5)
    require_turns(make_trainer(turns), batches_per_turn=4)
    with pytest.raises(ValueError, match=r"accumulate_grad_batches=2.*batches_per_turn"):
        require_turns(make_trainer(accumulate_grad_batches=2), batches_per_turn=1)
    with pytest.raises(ValueError, match=r"module.gradient_clip"):
        require_turns(make_trainer(gradient_clip_val=1.0), batches_per_turn=1)


def test_checkpoints_within_a_turn(tmp_path: Path) -> None:
    plain = make_trainer(ModelCheckpoint(dirpath=tmp_path))
    require_turns(plain, batches_per_turn=1)
    with pytest.raises(ValueError, match=r"'ModelCheckpoint'\] with 4 batches a turn"):
        require_turns(plain, batches_per_turn=4)


@pytest.fixture
def data(tiny_shards: Path) -> Callable[..., LatentDataModule]:
    def make(**settings: Any) -> LatentDataModule:
        made = LatentDataModule(shards=str(tiny_shards), patch=(1, 2, 2), tokens_per_batch=100, **settings)
        made.setup()
        return made

    return make


def test_a_modality_that_no_clip_has(data: Callable[..., LatentDataModule]) -> None:
    require_modalities(data(), BOTH)
    silent = data()
    silent.plan.indexes[0].columns.audio[:] = np.int32(-1)
    with pytest.raises(ValueError, match=r"audio_weight=1.0, but no training clip has audio"):
        require_modalities(silent, BOTH)
    require_modalities(silent, {Modality.VIDEO: 1.0, Modality.AUDIO: 0.0})


def test_sound_that_is_always_given(data: Callable[..., LatentDataModule]) -> None:
    with pytest.raises(ValueError, match="every clip's sound is given"):
        require_modalities(data(audio_to_video_share=1.0), BOTH)


def test_no_weights(data: Callable[..., LatentDataModule]) -> None:
    with pytest.raises(ValueError, match="nothing to distill"):
        require_modalities(data(), {Modality.VIDEO: 0.0, Modality.AUDIO: 0.0})
