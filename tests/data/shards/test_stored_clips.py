"""Clips found by key in tars, damaged ones among them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hh_train.data.shards.format import ShardWriter, TokenizedClip
from hh_train.data.shards.stored_clips import StoredClips
from hh_train.types import ClipMetadata, LatentClip, Prompt


def clip(key: str, value: float = 1.0) -> TokenizedClip:
    latents = LatentClip(key=key, video=torch.full((3, 2, 4, 4), float(value)), audio=None, text=torch.zeros(2, 8))
    metadata = ClipMetadata(key=key, prompt=Prompt(description=f"the {key}"), transcript="a  word")
    return TokenizedClip(latents=latents, metadata=metadata)


def write_shard(path: Path, *clips: TokenizedClip) -> Path:
    writer = ShardWriter(path)
    for item in clips:
        writer.add(item)
    writer.close()
    return path


def test_clips_are_read_as_they_were_written(tmp_path: Path) -> None:
    long = "k" * 150  # the name needs a header of its own
    paths = [
        write_shard(tmp_path / "a.tar", clip("one", 1), clip(long, 2)),
        write_shard(tmp_path / "b.tar", clip("two", 3), clip("one", 4)),
    ]
    stored = StoredClips(paths)
    assert list(stored) == ["one", long, "two"]
    assert len(stored) == 3
    assert "two" in stored
    assert "three" not in stored
    for key, value in (("one", 1), (long, 2), ("two", 3)):
        found = stored.read(key)
        assert found.metadata == clip(key).metadata
        assert found.latents.audio is None
        assert torch.equal(found.latents.video, torch.full((3, 2, 4, 4), float(value)).half())
    assert stored.path("one") == paths[0]
    write_shard(tmp_path / "again.tar", stored.read("one"), stored.read(long))
    assert (tmp_path / "again.tar").read_bytes() == paths[0].read_bytes()


def test_notes_are_kept_and_clips_without_are_as_before(tmp_path: Path) -> None:
    noted = replace(clip("one"), notes=("are remarkable",))
    path = write_shard(tmp_path / "a.tar", noted, clip("two"))
    stored = StoredClips([path])
    assert stored.read("one").notes == ("are remarkable",)
    assert stored.read("one").metadata == noted.metadata
    assert stored.read("two").notes == ()
    assert b"_notes" not in write_shard(tmp_path / "b.tar", clip("two")).read_bytes()


def test_one_of_several_sets_wins(tmp_path: Path) -> None:
    first = StoredClips([write_shard(tmp_path / "a.tar", clip("one", 1))])
    second = StoredClips([write_shard(tmp_path / "b.tar", clip("one", 2), clip("two", 2))])
    for key in second:
        first.take_from(second, key)
    assert [first.path(key).name for key in first] == ["a.tar", "b.tar"]
    first.discard("one")
    first.discard("absent")
    assert list(first) == ["two"]


@pytest.mark.parametrize("kept", [0, 2, 5])
def test_what_lies_before_the_damage_is_there(tmp_path: Path, kept: int) -> None:
    path = write_shard(tmp_path / "a.tar", *(clip(f"clip{i}") for i in range(6)))
    single = write_shard(tmp_path / "one.tar", clip("clip0"))
    size = -(-len(single.read_bytes().rstrip(b"\0")) // 512) * 512
    path.write_bytes(path.read_bytes()[: kept * size + size // 2])
    stored = StoredClips([path])
    assert list(stored) == [f"clip{i}" for i in range(kept)]
    for key in stored:
        stored.read(key)


def test_damaged_latents_are_told(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "a.tar", clip("one"))
    contents = path.read_bytes()
    path.write_bytes(contents.replace(b'{"', b"!!"))
    with pytest.raises(ValueError, match=r"a\.tar is damaged"):
        StoredClips([path]).read("one")
