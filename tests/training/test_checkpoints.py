"""What a run leaves behind, and where it goes on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from hh_train.model.checkpoint import load_model
from hh_train.model.transformer import SandwichTransformer
from hh_train.training.checkpoints import Provenance, checkpoint_folder, export_checkpoint, resume_path

PROVENANCE = Provenance(
    stage="distill", num_steps=7, is_student=True, teacher="dd", tokenizers={"video": "aa", "audio": "bb", "text": "cc"}
)


def test_an_export_can_be_loaded_and_says_where_it_comes_from(tiny_model: SandwichTransformer, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 3\n")
    folder = tmp_path / "model"
    export_checkpoint(tiny_model, folder, provenance=PROVENANCE)
    loaded = load_model(folder, compute_dtype="float32")
    assert loaded.config == tiny_model.config
    assert loaded.state_dict().keys() == tiny_model.state_dict().keys()
    for name, tensor in tiny_model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert Provenance.read(folder) == PROVENANCE
    assert (folder / "training_config.yaml").read_text() == "seed: 3\n"
    assert not list(tmp_path.glob("*.unfinished"))


def test_a_run_without_a_saved_configuration(tiny_model: SandwichTransformer, tmp_path: Path) -> None:
    export_checkpoint(tiny_model, tmp_path / "model", provenance=PROVENANCE)
    assert {file.name for file in (tmp_path / "model").iterdir()} == {
        "model.safetensors",
        "config.json",
        "provenance.json",
    }


def test_a_checkpoint_from_elsewhere_says_nothing(tmp_path: Path) -> None:
    assert Provenance.read(tmp_path) is None


def trainer(*callbacks: ModelCheckpoint, enable_checkpointing: bool = True) -> Trainer:
    return Trainer(
        accelerator="cpu", logger=False, callbacks=list(callbacks), enable_checkpointing=enable_checkpointing,
        enable_progress_bar=False,
    )  # fmt: skip


def touch(file: Path, *, age_seconds: float, folder: bool = False) -> None:
    file.mkdir() if folder else file.touch()
    os.utime(file, (1e9 - age_seconds, 1e9 - age_seconds))


@pytest.mark.parametrize("folder", [False, True], ids=["file", "sharded"])
def test_a_run_goes_on_from_the_newest_last_checkpoint(tmp_path: Path, folder: bool) -> None:
    """Lightning names another `last` checkpoint last-v1, last-v2 and so on, and may begin anew at last."""
    ours = trainer(ModelCheckpoint(dirpath=tmp_path, save_last=True))
    assert resume_path(ours) is None
    touch(tmp_path / "epoch=9-step=9.ckpt", age_seconds=0)
    touch(tmp_path / "last.txt", age_seconds=0)
    assert resume_path(ours) is None
    touch(tmp_path / "last-v2.ckpt", age_seconds=20, folder=folder)
    touch(tmp_path / "last-v1.ckpt", age_seconds=10, folder=folder)
    touch(tmp_path / "last.ckpt", age_seconds=30, folder=folder)
    assert resume_path(ours) == str(tmp_path / "last-v1.ckpt")


def test_nowhere_to_look(tmp_path: Path) -> None:
    touch(tmp_path / "last.ckpt", age_seconds=0)
    assert resume_path(trainer(ModelCheckpoint(save_last=True))) is None
    assert resume_path(trainer(enable_checkpointing=False)) is None


def test_weights_lie_in_a_folder_or_in_its_model(tiny_model: SandwichTransformer, tmp_path: Path) -> None:
    export_checkpoint(tiny_model, tmp_path / "run" / "model", provenance=PROVENANCE)
    assert checkpoint_folder(tmp_path / "run") == checkpoint_folder(tmp_path / "run" / "model")
    with pytest.raises(ValueError, match="holds no checkpoint: wanted a folder"):
        checkpoint_folder(tmp_path)
