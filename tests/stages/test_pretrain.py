"""Pretraining from its configuration: what it leaves behind, and that it is done once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from hh_train.data.media.files import MediaReader
from hh_train.data.shards.manifest import Manifest
from hh_train.model.checkpoint import load_model
from hh_train.training.checkpoints import Provenance


def test_the_checkpoint_is_that_of_the_configured_model(teacher: Path, road: Path) -> None:
    assert teacher == road / "pretrain" / "model"
    model = load_model(teacher)
    assert (model.config.num_layers, model.config.hidden_size, model.config.text_in_channels) == (2, 32, 20)
    provenance = Provenance.read(teacher)
    assert provenance is not None
    assert (provenance.stage, provenance.num_steps) == ("pretrain", 3)
    assert provenance.tokenizers == Manifest.load(road / "shards").fingerprints()


def test_it_has_trained(teacher: Path) -> None:
    """The norms of a fresh model are zero."""
    model = load_model(teacher)
    for layer in (model.final_norm_video, model.final_norm_audio):
        assert layer.weight.isfinite().all() and layer.weight.abs().max() > 1e-6


def test_the_configuration_goes_along(teacher: Path) -> None:
    saved = yaml.safe_load((teacher / "training_config.yaml").read_text())
    assert saved["_target_"] == "hh_train.stages.pretrain.run"
    assert saved["trainer"]["max_steps"] == 3
    assert saved["module"]["model"]["config"]["hidden_size"] == 32
    assert "paths" not in saved


def test_samples_have_pictures_and_sound(teacher: Path, road: Path) -> None:
    (sample,) = (road / "pretrain" / "samples").rglob("*.mp4")
    assert sample.parent.name == "step-0000003"
    clip = MediaReader().read(sample)
    assert clip.frames.shape == (9, 32, 32, 3)
    assert clip.waveform is not None and clip.waveform.shape == (9 * 640,)


def test_shards_may_lie_behind_a_url(
    teacher: Path, pretrain: Callable[..., Path], road: Path, tiny_shards_url: str
) -> None:
    """Training, validation and the samples in between: the same weights as from the folder."""
    remote = pretrain(f"output={road}/remote", f"paths.shards={tiny_shards_url}")
    assert len(list((road / "remote" / "samples").rglob("*.mp4"))) == 1
    ours, theirs = (load_model(folder).state_dict() for folder in (remote, teacher))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_second_run_does_nothing(
    teacher: Path, pretrain: Callable[..., Path], times: Callable[[Path], dict[Path, int]]
) -> None:
    before = times(teacher.parent)
    assert pretrain() == teacher
    assert times(teacher.parent) == before


def test_the_seed_decides(teacher: Path, pretrain: Callable[..., Path], road: Path) -> None:
    again = pretrain(f"output={road}/again", "trainer.callbacks=[]", "+trainer.enable_checkpointing=false")
    other = pretrain(f"output={road}/other", "seed=1", "trainer.callbacks=[]", "+trainer.enable_checkpointing=false")
    wanted, same, different = (load_model(folder).state_dict() for folder in (teacher, again, other))
    for name, tensor in wanted.items():
        assert torch.equal(same[name], tensor), name
    name = "block.layers.1.mlp.down_proj.weight"
    assert not torch.allclose(different[name], wanted[name], atol=1e-3)


def test_a_model_for_other_codecs_is_told(pretrain: Callable[..., Path], road: Path) -> None:
    with pytest.raises(ValueError, match="audio tokens have 5 channels, the model reads 6"):
        pretrain(f"output={road}/unfit", "module.model.config.audio_in_channels=6", "trainer.callbacks=[]")
