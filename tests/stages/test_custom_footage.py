"""Real clips, and stills, from a folder to adapters: `hh-train tokenize` and `hh-train finetune`, as one types them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hh_train.cli import run_stage
from hh_train.data.packing import pack
from hh_train.data.shards.format import read_latent_clips
from hh_train.data.shards.manifest import Manifest
from hh_train.metrics.report.figures import read_curves
from hh_train.model.checkpoint import load_model
from hh_train.model.lora import attach_file, read_adapter
from hh_train.training.finetune.export import FILES

STEPS = 40
SMALL = (
    "trainer.logger=[{_target_:lightning.pytorch.loggers.CSVLogger,save_dir:${output},name:logs,flush_logs_every_n_steps:1}]",
    "+trainer.enable_progress_bar=false", "trainer.callbacks=[]", "+trainer.enable_checkpointing=false",
    "samples=null", "voice=null", "module.base.compute_dtype=float32", f"trainer.max_steps={STEPS}",
    f"trainer.val_check_interval={STEPS // 2}", "datamodule.tokens_per_batch=400",
    "module.optimizer.learning_rate=2e-2", "module.optimizer.warmup_steps=2",
)  # fmt: skip
"""Of a training; the base is that of the other stages' tests: two narrow layers."""


def copied(clip: Path, folder: Path) -> None:
    """A clip and its caption in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in (clip, clip.with_suffix(".txt")):
        shutil.copy(path, folder)


def tokenized(footage: Path, base: Path, root: Path, *overrides: str) -> Manifest:
    manifest = run_stage(
        "tokenize", f"footage={footage}", f"codecs={base / 'shards'}", f"paths.root={root}", "size=[32,32]",
        "reconstruct_clips=0", "num_workers=1", *overrides,
    )  # fmt: skip
    assert isinstance(manifest, Manifest)
    return manifest


def finetuned(experiment: str, base: Path, root: Path, rules: str, *overrides: str) -> Path:
    path = run_stage(
        "finetune", f"experiment=finetune/{experiment}", f"checkpoint={base / 'pretrain'}", f"paths.root={root}",
        *SMALL, f"module.adapters.rules=[{{_target_:hh_train.model.lora.targets.AdapterRule,{rules}}}]", *overrides,
    )  # fmt: skip
    assert isinstance(path, Path)
    return path


def keys(manifest: Manifest, split: str) -> list[str]:
    return [sample.key for sample in manifest.samples_of(split)]


def plan(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "finetune" / "plan.json").read_text())
    return found


def outputs(model: torch.nn.Module, shards: Path) -> Sequence[torch.Tensor]:
    clips = [clip for clip, _ in read_latent_clips(shards, "validation", max_clips=3)]
    with torch.no_grad():
        prediction = model(pack(clips, patch=(1, 2, 2)).float())
    return prediction.video, prediction.audio


@pytest.fixture(scope="module")
def talk(real_clip: Callable[[str], Path], teacher: Path, road: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a run on two people who talk, with a clip that is no media and one without a caption."""
    root = tmp_path_factory.mktemp("talk")
    clips = root / "my clips"
    for name, split in (("testMovie", "train"), ("obama_speech", "train"), ("jwpIntro", "validation")):
        copied(real_clip(name), clips / split)
    (clips / "train" / "notes.mp4").write_text("no media")
    shutil.copy(clips / "train" / "testMovie.mp4", clips / "train" / "bare.mp4")
    tokenized(clips, road, root, "windows=sliding", "windows.stride_frames=20", "max_frames=17")
    finetuned("lora", road, root, "rank:4")
    return root


def test_windows_of_long_clips_are_kept_and_bad_files_told(talk: Path) -> None:
    manifest = Manifest.load(talk / "shards")
    train = keys(manifest, "train")
    assert {key.rsplit("_", 1)[0] for key in train} == {"testMovie", "obama_speech"}
    assert {key.rsplit("_", 1)[0] for key in keys(manifest, "validation")} == {"jwpIntro"}
    assert 18 <= len(train) <= 21  # 7.8 and 8.7 s, a window every 0.8 s
    assert all(sample.video == (5, 4, 4) and sample.audio == 17 for sample in manifest.samples_of("train"))
    reasons = {clip.key: clip.reason for clip in manifest.dropped}
    assert reasons.pop("notes").startswith("cannot be read as media")
    assert len(reasons) == 9, "a window of the file without a caption each"
    assert all(key.startswith("bare_") and why.startswith("no caption") for key, why in reasons.items())


def test_the_run_says_what_it_is(talk: Path) -> None:
    told = plan(talk)
    own = told["survey"]["sets"][0]
    num_clips = len(keys(Manifest.load(talk / "shards"), "train"))
    assert (own["num_clips"], own["num_dropped"], own["num_silent"]) == (num_clips, 10, 0)
    assert any("have the same caption ('A" in warning for warning in told["warnings"])


def test_held_out_losses_of_own_clips_fall_below_the_bases(talk: Path) -> None:
    curves = read_curves(talk / "finetune")
    for modality in ("video", "audio"):
        steps, losses = curves[f"validation/{modality}"]
        assert len(steps) == 3
        assert losses[-1] < 0.98 * losses[0]


@pytest.mark.parametrize("style", FILES)
def test_adapter_files_load_again(talk: Path, road: Path, style: str) -> None:
    base = load_model(road / "pretrain" / "model", compute_dtype="float32")
    before = outputs(base, talk / "shards")
    found = attach_file(base, "mine", talk / "finetune" / "adapter" / FILES[style])  # type: ignore[index]
    merged = outputs(load_model(talk / "finetune" / "model", compute_dtype="float32"), talk / "shards")
    assert found.record.scores["validation/video"] > 0
    for untouched, attached, whole in zip(before, outputs(base, talk / "shards"), merged, strict=True):
        torch.testing.assert_close(attached, whole, atol=1e-5, rtol=0)
        assert (attached - untouched).abs().max() > 1e-3


def test_clips_with_a_mute_track_train_the_picture_alone(
    real_clip: Callable[[str], Path], road: Path, teacher: Path, tmp_path: Path
) -> None:
    for split in ("train", "validation"):
        copied(real_clip("WolfgangLanger_Pexels"), tmp_path / "clips" / split)
    manifest = tokenized(tmp_path / "clips", road, tmp_path, "windows=uniform", "windows.count=4", "max_frames=9")
    assert manifest.shards_of("train")[0].num_silent == len(keys(manifest, "train")) == 4
    finetuned(
        "lora",
        road,
        tmp_path,
        "rank:2",
        "trainer.max_steps=4",
        "trainer.val_check_interval=4",
        "trainer.log_every_n_steps=1",
    )
    assert any("4 of 4 clips have no sound and train the picture alone" in told for told in plan(tmp_path)["warnings"])
    curves = read_curves(tmp_path / "finetune")
    assert len(curves["train/video"][0]) == 4 and len(curves["validation/video"][0]) == 2
    assert not [name for name in curves if "audio" in name]


def test_stills_teach_a_look(road: Path, teacher: Path, tmp_path: Path) -> None:
    """A folder of images with captions; the experts of sound and text are as they were."""
    random = np.random.default_rng(0)
    for split, count in (("train", 5), ("validation", 2)):
        (tmp_path / "stills" / split).mkdir(parents=True)
        for index in range(count):
            color = np.array([200, 120, 40]) + random.integers(-30, 30, 3)
            image = np.clip(color + random.integers(-8, 8, (40, 56, 1)), 0, 255).astype(np.uint8)
            Image.fromarray(image).save(tmp_path / "stills" / split / f"{index}.png")
            (tmp_path / "stills" / split / f"{index}.txt").write_text(
                f"A warm wall in the evening sun, number {index}."
            )
    manifest = tokenized(tmp_path / "stills", road, tmp_path)
    assert (len(keys(manifest, "train")), len(keys(manifest, "validation")), manifest.dropped) == (5, 2, ())
    assert all(sample.video == (1, 4, 4) and sample.audio is None for sample in manifest.samples_of("train"))
    model = finetuned("lora_look", road, tmp_path, "rank:2,experts:[video]")
    survey = plan(tmp_path)["survey"]["sets"][0]
    assert (survey["num_pictures"], survey["num_clips"]) == (5, 5)
    _, losses = read_curves(tmp_path / "finetune")["validation/video"]
    assert losses[-1] < 0.98 * losses[0]
    base, tuned = (load_model(folder) for folder in (road / "pretrain" / "model", model))
    adapter = read_adapter(tmp_path / "finetune" / "adapter" / FILES["comfyui"], base.config)
    assert adapter.weights and {cell.expert for cell in adapter.weights} == {"video"}
    after = tuned.state_dict()
    changed = {name for name, tensor in base.state_dict().items() if not torch.equal(tensor, after[name])}
    assert changed and all(name.startswith("block.layers.0.") for name in changed)
    for name in changed:
        ours, theirs = base.state_dict()[name].chunk(3), after[name].chunk(3)
        assert [torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)] == [False, True, True]
