"""Shards folders that are written in one go, in several, with other settings, and with parts missing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hh_train.data.footage import DroppedClip
from hh_train.data.manifest import Manifest
from hh_train.data.shard_folder import ShardFolder
from hh_train.data.shards import TokenizedClip, read_shard, write_null_text
from hh_train.types import ClipMetadata, LatentClip, Prompt

SETTINGS: dict[str, Any] = {"size": [64, 64], "tokenizers": {"video": {"whitening": 0.5}}}
NUM_CLIPS = 18
BAD = {2: "no caption", 6: "too short", 7: "no caption"}


def clip(index: int) -> TokenizedClip | DroppedClip:
    key = f"clip{index}"
    if index in BAD:
        return DroppedClip(key=key, split="train", reason=BAD[index])
    latents = LatentClip(
        key=key,
        video=torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(index)),
        audio=None if index == 4 else torch.full((5, 4), float(index)),
        text=torch.zeros(2, 8),
    )
    return TokenizedClip(latents=latents, metadata=ClipMetadata(key=key, prompt=Prompt(description="d")))


def open_folder(path: Path, **changes: Any) -> ShardFolder:
    arguments: dict[str, Any] = {"settings": SETTINGS, "shard_bytes": 5_000, "companions": ("tokenizers",)}
    return ShardFolder(folder=path, **{**arguments, **changes})


class KilledError(Exception):
    """Stands for the end of the process."""


def write(folder: ShardFolder, *, killed_before: int | None = None) -> list[int]:
    """Writes what is missing, in order; the clips that had to be made."""
    made = []

    def clips() -> Iterator[TokenizedClip | DroppedClip]:
        for index in range(NUM_CLIPS):
            if folder.is_done(f"clip{index}"):
                continue
            if index == killed_before:
                raise KilledError
            made.append(index)
            yield clip(index)

    try:
        folder.write_split("train", clips())
    except KilledError:
        assert killed_before is not None
    return made


def finish(folder: ShardFolder) -> None:
    (folder.folder / "tokenizers").mkdir(exist_ok=True)
    write_null_text(folder.folder, torch.zeros(1, 8))
    folder.finish(
        Manifest(
            settings=folder.settings,
            frames_per_second=25.0,
            samples_per_second=16_000,
            tokenizers={},
            shards=folder.records,
        )
    )


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir() if file.is_file()}


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    folder = open_folder(tmp_path / "whole")
    assert write(folder) == list(range(NUM_CLIPS))
    finish(folder)
    return tmp_path / "whole"


def test_everything_is_there_once(whole: Path) -> None:
    manifest = Manifest.load(whole)
    names = [shard.name for shard in manifest.shards]
    assert names == [f"train-{number:06d}.tar" for number in range(len(names))]
    assert len(names) > 1
    stored = [latents.key for name in names for latents, _ in read_shard(whole / name)]
    assert stored == [f"clip{i}" for i in range(NUM_CLIPS) if i not in BAD]
    assert [sample.key for sample in manifest.samples_of("train")] == stored
    assert {dropped.key: dropped.reason for dropped in manifest.dropped} == {f"clip{i}": r for i, r in BAD.items()}
    assert sum(shard.num_silent for shard in manifest.shards) == 1
    assert not list(whole.glob(".*"))


@pytest.mark.parametrize("killed_before", range(NUM_CLIPS))
def test_a_killed_run_goes_on_and_loses_nothing(whole: Path, tmp_path: Path, killed_before: int) -> None:
    path = tmp_path / "again"
    first = write(open_folder(path), killed_before=killed_before)
    folder = open_folder(path)
    assert not folder.is_complete
    second = write(folder)
    twice = set(first) & set(second)
    assert twice <= set(BAD)  # bad clips of an open shard are looked at again, no other
    assert set(first) | set(second) == set(range(NUM_CLIPS))
    finish(folder)
    assert contents(path) == contents(whole)


def test_killed_twice_in_one_shard(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "again"
    write(open_folder(path), killed_before=1)
    write(open_folder(path), killed_before=3)
    write(folder := open_folder(path))
    finish(folder)
    assert contents(path) == contents(whole)


def test_killed_between_a_shard_and_the_removal_of_its_clips(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "again"
    with monkeypatch.context() as patch:
        patch.setattr("hh_train.data.shard_folder.shutil.rmtree", lambda *_, **__: (_ for _ in ()).throw(KilledError))
        write(open_folder(path), killed_before=NUM_CLIPS)
    write(folder := open_folder(path))
    finish(folder)
    assert contents(path) == contents(whole)


def test_a_shard_that_was_lost_on_the_way_is_made_again(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "again"
    write(open_folder(path), killed_before=NUM_CLIPS - 1)
    assert len(list(path.glob("*.tar"))) >= 2
    (path / "train-000000.tar").unlink()
    write(folder := open_folder(path))
    finish(folder)
    stored = sorted(latents.key for shard in path.glob("*.tar") for latents, _ in read_shard(shard))
    assert stored == sorted(f"clip{i}" for i in range(NUM_CLIPS) if i not in BAD)
    assert len(Manifest.load(path).shards) == len(list(path.glob("*.tar")))


def test_a_finished_folder_is_left_alone(whole: Path) -> None:
    before = contents(whole)
    folder = open_folder(whole, overwrite=True)
    assert folder.is_complete
    assert contents(whole) == before


@pytest.mark.parametrize("complete", [True, False])
def test_other_settings_are_refused_by_name(whole: Path, tmp_path: Path, complete: bool) -> None:
    path = whole
    if not complete:
        path = tmp_path / "half"
        write(open_folder(path), killed_before=5)
    other = {"size": [64, 64], "tokenizers": {"video": {"whitening": 1.0}}}
    before = contents(path)
    with pytest.raises(ValueError, match=r"tokenizers\.video\.whitening: 0\.5 there, 1\.0 wanted.*overwrite=true"):
        open_folder(path, settings=other)
    assert contents(path) == before
    (path / "notes.txt").write_text("mine")
    folder = open_folder(path, settings=other, overwrite=True)
    assert not folder.is_complete
    assert [file.name for file in path.iterdir() if file.name != ".progress"] == ["notes.txt"]
    assert write(folder) == list(range(NUM_CLIPS))


@pytest.mark.parametrize("name", ["train-000001.tar", "null.safetensors", "tokenizers"])
def test_a_finished_folder_that_lacks_a_part_is_refused(whole: Path, name: str) -> None:
    if (whole / name).is_dir():
        (whole / name).rmdir()
    else:
        (whole / name).unlink()
    with pytest.raises(ValueError, match=rf"lacks {name}.*overwrite=true"):
        open_folder(whole)
    assert not open_folder(whole, overwrite=True).is_complete


def test_latents_that_cannot_be_stored_are_left_out(tmp_path: Path) -> None:
    good = clip(0)
    assert isinstance(good, TokenizedClip)
    bad = LatentClip(key="bad", video=torch.full((1, 1, 1, 1), float("nan")), audio=None, text=torch.zeros(1, 8))
    folder = open_folder(tmp_path)
    folder.write_split("train", [TokenizedClip(latents=bad, metadata=good.metadata), good])
    (record,) = folder.records
    assert [sample.key for sample in record.samples] == ["clip0"]
    assert [(dropped.key, "not finite" in dropped.reason) for dropped in record.dropped] == [("bad", True)]


def test_shards_need_a_size(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shard size"):
        open_folder(tmp_path, shard_bytes=0)
