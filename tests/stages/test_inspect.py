"""Latent shards, looked at: clips with their prompts and a sheet of frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch

from hh_train.data.media.files import MediaReader, write_clip
from hh_train.data.shards.format import read_latent_clips
from hh_train.data.shards.manifest import Manifest
from hh_train.stages import inspect as inspection
from hh_train.stages import tokenize
from hh_train.tokenizers import HashedTextTokenizer, MelAudioTokenizer, PatchVideoTokenizer, load_tokenizers
from hh_train.types import Clip, Prompt


@pytest.fixture
def inspect(run_stage: Callable[..., Any], tmp_path: Path) -> Callable[..., set[str]]:
    """Runs the stage; the keys of the clips that it wrote."""

    def run(*overrides: str) -> set[str]:
        folder = run_stage("inspect", f"output={tmp_path}", *overrides)
        return {file.stem for file in folder.glob("*.mp4")}

    return run


def test_a_decoded_clip_is_what_its_latents_say(inspect: Callable[..., set[str]], road: Path, tmp_path: Path) -> None:
    keys = inspect("split=test", "num_clips=5")
    stored = {metadata.key: (latents, metadata) for latents, metadata in read_latent_clips(road / "shards", "test")}
    assert keys == set(stored)
    video = load_tokenizers(road / "shards").video
    for key, (latents, metadata) in stored.items():
        clip = MediaReader().read(tmp_path / f"{key}.mp4")
        assert clip.waveform is not None
        difference = clip.frames.float() - video.decode(latents.video).float()
        assert difference.abs().mean() < 6  # of 255: what H.264 loses
        assert Prompt.parse((tmp_path / f"{key}.txt").read_text(encoding="utf-8")) == metadata.prompt
    sheet = torch.from_numpy(cv2.imread(str(tmp_path / "contact_sheet.png")))
    assert sheet.shape[0] == 2 * (128 + 18) and sheet.shape[1] == 8 * 128
    assert sheet[18:128].float().std() > 10


def test_the_draw_is_the_seeds(inspect: Callable[..., set[str]], road: Path, tmp_path: Path) -> None:
    drawn = []
    for seed in (0, 0, 1, 2, 3):
        drawn.append(inspect("num_clips=3", f"seed={seed}"))
        for file in tmp_path.glob("*.*"):
            file.unlink()
    assert all(len(keys) == 3 for keys in drawn)
    assert drawn[0] == drawn[1]
    assert len({frozenset(keys) for keys in drawn}) > 1
    manifest = Manifest.load(road / "shards")
    assert set().union(*drawn) <= {sample.key for split in manifest.splits for sample in manifest.samples_of(split)}


@pytest.mark.parametrize(
    ("override", "message"), [("num_clips=0", "num_clips 0"), ("split=tests", "wanted one of train, validation, test")]
)
def test_what_cannot_be_drawn_is_refused(inspect: Callable[..., set[str]], override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inspect(override)


def test_picture_and_sound_stay_together_from_footage_to_what_is_looked_at(tmp_path: Path) -> None:
    """Flashes that begin with a click, at 30 frames a second and 44.1 kHz, through shards and back to a file."""
    moments = (0.4, 1.1, 1.9)
    for index, split in enumerate(("train", "validation")):
        frames = torch.full((81, 48, 48, 3), 10, dtype=torch.uint8)
        waveform = torch.zeros(round(2.7 * 44_100))
        for moment in moments:
            frames[round(moment * 30) : round(moment * 30) + 4] = 240 - index
            waveform[round(moment * 44_100) :][:400] = 0.9
        path = tmp_path / "footage" / split / f"{split}.mp4"
        write_clip(path, Clip(frames=frames, frames_per_second=30.0, waveform=waveform, samples_per_second=44_100))
        path.with_suffix(".txt").write_text("White flashes to clicks")
    tokenize.run(
        footage=str(tmp_path / "footage"),
        output=str(tmp_path / "shards"),
        video=PatchVideoTokenizer(channels=12),
        audio=MelAudioTokenizer(channels=32, phase_iterations=8),
        text=HashedTextTokenizer(),
        size=(32, 32),
        max_frames=65,
        reconstruct_clips=0,
    )
    shown = inspection.run(shards=str(tmp_path / "shards"), output=str(tmp_path / "shown"))
    for split in ("train", "validation"):
        clip = MediaReader().read(shown / f"{split}.mp4")
        assert clip.waveform is not None
        bright = clip.frames.float().mean((1, 2, 3)) > 125
        flashes = [i / 25 for i in range(1, len(bright)) if bright[i] and not bright[i - 1]]
        assert len(flashes) == len(moments)
        for flash in flashes:  # the middle of the click's energy, which the sound codec smears to both sides
            first = round((flash - 0.1) * 16_000)
            power = clip.waveform[first : first + 3200].double().square()
            middle = float((power * torch.arange(len(power))).sum() / power.sum())
            click = (first + middle) / 16_000 - 200 / 44_100
            assert abs(click - flash) <= 0.02 + 0.002
