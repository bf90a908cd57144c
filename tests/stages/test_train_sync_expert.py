"""Footage to sync expert: what is left out is told, a finished folder is kept, a half-finished one is not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hh_train.data.media.files import write_clip
from hh_train.metrics.faces.cascade import CascadeFaces
from hh_train.metrics.sync.expert import SyncExpert
from hh_train.stages import train_sync_expert
from hh_train.types import Clip


def talking_clip(seed: int, *, moves: bool = True, num_frames: int = 33) -> Clip:
    """A gray head whose mouth opens as far as its noise is loud."""
    generator = np.random.default_rng(seed)
    level = np.zeros(num_frames * 4)
    at = 10
    while at < len(level) - 14:
        length = min(int(generator.integers(8, 18)), len(level) - at)
        level[at : at + length] = np.sin(np.linspace(0, np.pi, length)) * generator.uniform(0.5, 1)
        at += length + int(generator.integers(2, 10))
    y, x = np.mgrid[0:64, 0:64] / 64
    frames = np.full((num_frames, 64, 64, 3), (90, 140, 110), np.uint8)
    for i in range(num_frames):
        frames[i][((x - 0.5) / 0.3) ** 2 + ((y - 0.5) / 0.4) ** 2 < 1] = (215, 170, 140)
        for side in (-0.12, 0.12):
            frames[i][((x - 0.5 - side) / 0.04) ** 2 + ((y - 0.42) / 0.03) ** 2 < 1] = (30, 30, 40)
        height = 0.012 + 0.07 * level[4 * i + 2] * moves
        frames[i][((x - 0.5) / 0.12) ** 2 + ((y - 0.7) / height) ** 2 < 1] = (110, 25, 35)
    samples = np.arange(num_frames * 640)
    sound = np.interp(samples / 160, np.arange(len(level)), level) * generator.standard_normal(len(samples)) * 0.15
    return Clip(
        frames=torch.from_numpy(frames),
        frames_per_second=25.0,
        waveform=torch.from_numpy(sound.astype(np.float32)),
        samples_per_second=16_000,
    )


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("footage")
    for split, count, first in (("train", 24, 0), ("validation", 3, 100), ("test", 6, 200)):
        for i in range(count):
            write_clip(root / split / f"{split}-{i}.mp4", talking_clip(first + i))
    write_clip(root / "train" / "silent.mp4", replace(talking_clip(50), waveform=None))
    write_clip(root / "train" / "still.mp4", talking_clip(51, moves=False))
    write_clip(root / "train" / "short.mp4", talking_clip(52, num_frames=21))
    (root / "train" / "broken.mp4").write_bytes(b"no video")
    return root


def run(footage: Path, output: Path, **changed: int) -> Path:
    sizes = {"max_steps": 60, "batch_size": 12, "num_frames": 25, "side": 16, "width": 24, "seed": 0} | changed
    return train_sync_expert.run(
        footage=str(footage), output=str(output), faces=CascadeFaces(), max_seconds=None, **sizes
    )


def test_footage_to_expert(footage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(footage, tmp_path / "expert")
    expert = SyncExpert.load(folder)
    assert expert.config.side == 16 and 0 < expert.config.least_confidence < 1.5
    floor = json.loads((folder / "floor.json").read_text())
    assert floor["fingerprint"] == expert.fingerprint() and floor["num_training_clips"] == 24
    score = floor["test"]["within_one_frame"]
    assert score["num_clips"] == 6 and score["mean"] > 0.8 and score["low"] <= score["mean"] <= score["high"]
    assert floor["test"]["own_sound_matches"]["mean"] > floor["test"]["other_sound_matches"]["mean"]
    assert sorted(floor["left_out"]["train"]) == ["broken", "short", "silent", "still"]
    printed = capsys.readouterr().out
    assert "train: 24 of 28 clips" in printed and "left out silent: it has no sound track" in printed
    assert "left out still: the mouth does not move" in printed and "has 21 frames, fewer than 25" in printed
    assert "Known shifts of real clips" in printed

    weights = (folder / "model.safetensors").stat().st_mtime_ns
    run(footage, folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == weights
    assert "is finished and kept" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["expert"]


def test_an_unfinished_folder_is_trained_anew(footage: Path, tmp_path: Path) -> None:
    folder = tmp_path / "expert"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"half")
    run(footage, folder, max_steps=2, width=8)
    assert SyncExpert.load(folder).config.width == 8


def test_no_usable_training_clip_is_an_error(tmp_path: Path) -> None:
    write_clip(tmp_path / "train" / "silent.mp4", replace(talking_clip(0), waveform=None))
    with pytest.raises(ValueError, match=r"0 training clips .*\(silent: it has no sound track\)"):
        run(tmp_path, tmp_path / "expert")
