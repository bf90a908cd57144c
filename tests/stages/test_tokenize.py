"""Footage to shards: what is kept, what is left out and why, restarts, and refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from hh_train.data.datamodule import LatentDataModule
from hh_train.data.manifest import Manifest
from hh_train.data.media import write_clip
from hh_train.data.shards import read_latent_clips, read_null_text
from hh_train.stages import tokenize
from hh_train.tokenizers import HashedTextTokenizer, MelAudioTokenizer, PatchVideoTokenizer, load_tokenizers
from hh_train.types import Clip, DialogueLine, Prompt


def write_footage(path: Path, index: int, *, num_frames: int = 13, sound: bool = True, caption: bool = True) -> None:
    """A gray bar that moves to a tone, both of their own for each index."""
    columns = torch.arange(32)
    frames = torch.zeros(num_frames, 32, 32, 3, dtype=torch.uint8)
    for i in range(num_frames):
        frames[i] = (128 + 100 * torch.sin(columns / (2 + index % 3) + 0.3 * i)).to(torch.uint8)[None, :, None]
    time = torch.arange(num_frames * 640) / 16_000
    waveform = 0.3 * torch.sin(2 * math.pi * (200 + 100 * index) * time)
    clip = Clip(frames=frames, frames_per_second=25.0, waveform=waveform if sound else None, samples_per_second=16_000)
    write_clip(path, clip)
    if caption:
        dialogue = (DialogueLine(speaker="Man", language="English", line=f"number {index}"),)
        prompt = Prompt(description="A bar moves", dialogue=dialogue, background_sound="a tone")
        path.with_suffix(".txt").write_text(prompt.compose())


def codecs() -> dict[str, Any]:
    return {
        "video": PatchVideoTokenizer(channels=12),
        "audio": MelAudioTokenizer(channels=16, phase_iterations=2),
        "text": HashedTextTokenizer(),
    }


def tokenized(footage: Path, output: Path, **arguments: Any) -> Manifest:
    settings: dict[str, Any] = {"size": (16, 24), "max_frames": 9, "reconstruct_clips": 2, "num_workers": 2}
    return tokenize.run(footage=str(footage), output=str(output), **{**codecs(), **settings, **arguments})


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten good clips, one of them silent, and five bad ones."""
    folder = tmp_path_factory.mktemp("footage")
    for split, count in (("train", 6), ("validation", 2), ("test", 1)):
        for index in range(count):
            write_footage(folder / split / f"{split}-{index}.mp4", index)
    write_footage(folder / "train" / "silent.mp4", 7, sound=False)
    write_footage(folder / "train" / "uncaptioned.mp4", 8, caption=False)
    write_footage(folder / "train" / "short.mp4", 9, num_frames=4)
    (folder / "train" / "text.mp4").write_text("no video")
    (folder / "train" / "text.txt").write_text("A caption")
    (folder / "train" / "empty.mp4").touch()
    (folder / "train" / "empty.txt").write_text("A caption")
    write_footage(folder / "train" / "talkative.mp4", 9)
    line = " ".join(["word"] * 80)
    (folder / "train" / "talkative.txt").write_text(f'A man\n\nDialogue:\n<Man, English>: "{line}"')
    return folder


@pytest.fixture(scope="module")
def shards(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("shards")
    tokenized(footage, output)
    return output


def test_good_clips_are_kept_and_bad_ones_told(shards: Path) -> None:
    manifest = Manifest.load(shards)
    assert {s.key for s in manifest.samples_of("train")} == {"silent", *(f"train-{i}" for i in range(6))}
    assert [len(manifest.samples_of(split)) for split in ("validation", "test")] == [2, 1]
    assert sum(shard.num_silent for shard in manifest.shards) == 1
    reasons = {clip.key: clip.reason for clip in manifest.dropped}
    assert set(reasons) == {"uncaptioned", "short", "text", "empty", "talkative"}
    assert "no caption" in reasons["uncaptioned"]
    assert "too short: 4 frames" in reasons["short"]
    assert "cannot be read" in reasons["text"]
    assert "cannot be read" in reasons["empty"]
    assert "82 tokens" in reasons["talkative"]


def test_latents_have_the_geometry_of_the_clip(shards: Path) -> None:
    clips = {clip.key: clip for clip, _ in read_latent_clips(shards, "train")}
    assert clips["train-0"].video.shape == (12, 3, 2, 3)
    assert clips["train-0"].audio.shape == (9, 16)
    assert clips["train-0"].text.shape[1] == 96
    assert clips["silent"].audio is None
    assert clips["silent"].video.shape == (12, 3, 2, 3)


def test_latents_are_those_of_the_saved_codecs(shards: Path, footage: Path) -> None:
    saved = load_tokenizers(shards)
    clip, metadata = next(iter(read_latent_clips(shards, "test")))
    original = tokenize._reader(saved.video, saved.audio, (16, 24), 9).read(footage / "test" / "test-0.mp4")
    torch.testing.assert_close(clip.video, saved.video.encode(original.frames), atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(clip.audio, saved.audio.encode(original.waveform), atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(clip.text, saved.text.encode(metadata.prompt.compose()), atol=2e-3, rtol=1e-3)
    assert metadata.transcript == "number 0"
    assert Manifest.load(shards).fingerprints() == saved.fingerprints()
    torch.testing.assert_close(read_null_text(shards), saved.text.encode(saved.text.null_prompt))


def test_statistics_are_near_those_wanted(shards: Path) -> None:
    statistics = Manifest.load(shards).statistics()["train"]
    for modality in ("video", "audio"):
        assert abs(statistics[modality]["mean"]) < 0.1
        assert statistics[modality]["std"] == pytest.approx(1.0, abs=0.15)


def test_reconstruction_is_measured_and_written(shards: Path) -> None:
    measures = Manifest.load(shards).reconstruction
    assert measures["video_psnr_db"] > 30
    assert 0 < measures["audio_mel_distance_db"] < 6
    assert abs(measures["audio_loudness_change_db"]) < 3
    written = sorted(path.name for path in (shards / "reconstruction").iterdir())
    assert written == [f"validation-{i}.{suffix}" for i in (0, 1) for suffix in ("json", "mp4", "txt")]
    fields = json.loads((shards / "reconstruction" / "validation-0.json").read_text())
    assert fields["transcript"] == "number 0"
    assert set(fields["latent_statistics"]) == {"video", "audio"}


def test_the_data_module_reads_what_was_written(shards: Path) -> None:
    data = LatentDataModule(shards=str(shards), patch=(1, 2, 1), tokens_per_batch=200)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch.video.shape[1] == 24
    assert batch.num_tokens <= 200


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_run_leaves_finished_shards_alone(shards: Path, footage: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in shards.rglob("*")}
    tokenized(footage, shards)
    assert {path: path.stat().st_mtime_ns for path in shards.rglob("*")} == before


@pytest.mark.parametrize("survived", [0, 1, 3])
def test_a_killed_run_goes_on_to_the_same_shards(
    footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    tokenized(footage, tmp_path / "whole", shard_megabytes=0.01)
    encoded = []
    real = tokenize._tokenized

    def dies(*arguments: Any) -> Any:
        if len(encoded) == survived:
            raise KeyboardInterrupt
        encoded.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(tokenize, "_tokenized", dies)
    with pytest.raises(KeyboardInterrupt):
        tokenized(footage, tmp_path / "killed", shard_megabytes=0.01)
    with pytest.raises(ValueError, match="to its end"):
        Manifest.load(tmp_path / "killed")
    monkeypatch.setattr(tokenize, "_tokenized", real)
    tokenized(footage, tmp_path / "killed", shard_megabytes=0.01)
    whole, killed = files_of(tmp_path / "whole"), files_of(tmp_path / "killed")
    assert len([name for name in whole if name.endswith(".tar")]) >= 3
    assert whole.keys() == killed.keys()
    assert [name for name in whole if whole[name] != killed[name]] == []


def test_other_settings_are_refused_by_name_unless_overwritten(footage: Path, tmp_path: Path) -> None:
    tokenized(footage, tmp_path)
    with pytest.raises(ValueError, match=r"max_frames: 9 there, 5 wanted.*overwrite=true"):
        tokenized(footage, tmp_path, max_frames=5)
    with pytest.raises(ValueError, match=r"tokenizers\.video\.channels: 12 there, 10 wanted"):
        tokenized(footage, tmp_path, video=PatchVideoTokenizer(channels=10))
    manifest = tokenized(footage, tmp_path, max_frames=5, overwrite=True)
    assert {sample.video for sample in manifest.samples_of("train")} == {(2, 2, 3)}


def test_changed_footage_is_refused(tmp_path: Path) -> None:
    for index in range(4):
        write_footage(tmp_path / "footage" / f"{index}.mp4", index)
    tokenized(tmp_path / "footage", tmp_path / "shards")
    write_footage(tmp_path / "footage" / "new.mp4", 5)
    with pytest.raises(ValueError, match=r"footage\.clips: 4 there, 5 wanted"):
        tokenized(tmp_path / "footage", tmp_path / "shards")


def test_a_folder_without_splits_is_split(tmp_path: Path) -> None:
    for index in range(8):
        write_footage(tmp_path / "footage" / f"{index}.mp4", index)
    manifest = tokenized(tmp_path / "footage", tmp_path / "shards")
    assert [len(manifest.samples_of(split)) for split in ("train", "validation", "test")] == [6, 1, 1]


def test_fitted_codecs_are_used_as_they_are(shards: Path, footage: Path, tmp_path: Path) -> None:
    saved = load_tokenizers(shards)
    manifest = tokenized(footage, tmp_path, video=saved.video, audio=saved.audio)
    assert manifest.fingerprints() == Manifest.load(shards).fingerprints()


def test_an_empty_folder_and_a_missing_one_are_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no media"):
        tokenized(tmp_path / "empty", tmp_path / "shards")
    with pytest.raises(ValueError, match="does not exist"):
        tokenized(tmp_path / "missing", tmp_path / "shards")


def test_footage_without_any_usable_clip_tells_why(tmp_path: Path) -> None:
    (tmp_path / "footage").mkdir()
    for index in range(3):
        (tmp_path / "footage" / f"{index}.mp4").write_text("no video")
        (tmp_path / "footage" / f"{index}.txt").write_text("A caption")
    with pytest.raises(ValueError, match="cannot be read as media"):
        tokenized(tmp_path / "footage", tmp_path / "shards")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": (20, 24)}, "multiples"),
        ({"max_frames": 8}, "multiple of 4 plus 1"),
        ({"shard_megabytes": 0.0}, "positive"),
    ],
)
def test_settings_that_do_not_fit_are_told(
    footage: Path, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tokenized(footage, tmp_path, **arguments)
