"""The shard in hand: what it keeps, what it leaves out, and where its clips lie until it is closed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hh_train.data.footage.files import DroppedClip
from hh_train.data.shards.format import TokenizedClip, read_shard
from hh_train.data.shards.open_shard import OpenShard
from hh_train.data.shards.stored_clips import StoredClips
from hh_train.types import ClipMetadata, LatentClip, Prompt


def clip(key: str, value: float = 1.0, *, sound: bool = True) -> TokenizedClip:
    latents = LatentClip(
        key=key,
        video=torch.full((3, 2, 4, 4), value),
        audio=torch.full((5, 4), 2 * value) if sound else None,
        text=torch.zeros(2, 8),
    )
    return TokenizedClip(latents=latents, metadata=ClipMetadata(key=key, prompt=Prompt(description="d")))


@pytest.fixture
def shard(tmp_path: Path) -> OpenShard:
    return OpenShard(path=tmp_path / "train-000000.tar", split="train", pending_folder=tmp_path / "pending")


def test_a_record_tells_what_is_in_the_shard(shard: OpenShard) -> None:
    shard.add(clip("one", 1.0))
    shard.add(DroppedClip(key="bad", split="train", reason="too short"))
    shard.add(clip("two", 3.0, sound=False))
    record = shard.close()
    assert (record.name, record.split) == ("train-000000.tar", "train")
    assert [latents.key for latents, _ in read_shard(shard.path)] == ["one", "two"]
    assert [sample.key for sample in record.samples] == ["one", "two"]
    assert [sample.audio for sample in record.samples] == [5, None]
    assert [dropped.key for dropped in record.dropped] == ["bad"]
    assert record.num_silent == 1
    assert record.num_bytes == shard.path.stat().st_size
    assert (record.video.count, record.video.mean) == (192, 2.0)
    assert (record.audio.count, record.audio.mean) == (20, 2.0)


def test_the_spans_are_where_the_latents_lie(shard: OpenShard) -> None:
    shard.add(clip("one", 1.0))
    shard.add(clip("two", 3.0))
    record = shard.close()
    contents = shard.path.read_bytes()
    for sample in record.samples:
        assert sample.offset is not None
        assert sample.num_bytes is not None
        payload = contents[sample.offset : sample.offset + sample.num_bytes]
        assert int.from_bytes(payload[:8], "little") < len(payload)  # the header's length begins a safetensors file
        assert payload[8:9] == b"{"


def test_every_clip_is_on_disk_at_once_and_forgotten_in_the_end(shard: OpenShard, tmp_path: Path) -> None:
    for number in range(3):
        shard.add(clip(f"clip{number}"))
        assert len(StoredClips(sorted(shard.pending_folder.glob("*.tar")))) == number + 1
    shard.close()
    shard.forget_pending()
    assert list(shard.pending_folder.iterdir()) == []


def test_stored_clips_are_not_stored_again(shard: OpenShard, tmp_path: Path) -> None:
    shard.add(clip("one"))
    (pending,) = shard.pending_folder.glob("*.tar")
    elsewhere = tmp_path / "other.tar"
    elsewhere.touch()
    again = OpenShard(path=shard.path, split="train", pending_folder=shard.pending_folder)
    again.add(clip("zero"), stored_at=elsewhere)
    again.add(clip("one"), stored_at=pending)
    again.add(clip("two"))  # takes no name that another pending clip has
    assert len(list(shard.pending_folder.glob("*.tar"))) == 2
    again.close()
    again.forget_pending()
    assert list(shard.pending_folder.iterdir()) == []
    assert elsewhere.exists()


def test_what_cannot_be_stored_is_left_out(shard: OpenShard) -> None:
    shard.add(clip("bad", float("inf")))
    shard.add(clip("good"))
    record = shard.close()
    assert [sample.key for sample in record.samples] == ["good"]
    assert "not finite" in record.dropped[0].reason
