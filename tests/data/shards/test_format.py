"""Latents into tars and back, bit for bit; and shards that cannot be read."""

from __future__ import annotations

import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hh_train.data.shards.folder import ShardFolder
from hh_train.data.shards.format import (
    STORED_DTYPE,
    ShardWriter,
    TokenizedClip,
    find_spans,
    latents_from_bytes,
    latents_to_bytes,
    read_latent_clips,
    read_manifest,
    read_null_text,
    read_shard,
    sample_record,
    write_null_text,
)
from hh_train.data.shards.manifest import Manifest, TokenizerRecord
from hh_train.types import ClipMetadata, LatentClip, Prompt


def tokenized(key: str, seed: int = 0, *, silent: bool = False) -> TokenizedClip:
    generator = torch.Generator().manual_seed(seed)
    latents = LatentClip(
        key=key,
        video=torch.randn(3, 2, 4, 6, generator=generator),
        audio=None if silent else torch.randn(5, 4, generator=generator),
        text=torch.randn(7, 8, generator=generator),
    )
    prompt = Prompt(description=f"clip {seed}, Größe 大")
    return TokenizedClip(latents=latents, metadata=ClipMetadata(key=key, prompt=prompt, language="zh"))


def write(path: Path, *clips: TokenizedClip) -> Path:
    writer = ShardWriter(path)
    for clip in clips:
        writer.add(clip)
    writer.close()
    return path


def assert_same(found: LatentClip, wanted: LatentClip, dtype: torch.dtype) -> None:
    assert found.key == wanted.key
    for name in ("video", "audio", "text"):
        ours, theirs = getattr(found, name), getattr(wanted, name)
        if theirs is None:
            assert ours is None
        else:
            assert ours.dtype == dtype
            assert torch.equal(ours, theirs.to(STORED_DTYPE).to(dtype))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    clips = [tokenized("a", 0), tokenized("二" * 60, 1, silent=True), tokenized("k" * 180, 2)]
    found = list(read_shard(write(tmp_path / "{odd name}.tar", *clips)))
    assert len(found) == 3
    for (latents, metadata), clip in zip(found, clips, strict=True):
        assert_same(latents, clip.latents, STORED_DTYPE)
        assert metadata == clip.metadata


def test_shards_are_plain_tars_without_time_or_user(tmp_path: Path) -> None:
    one, two = (write(tmp_path / f"{name}.tar", tokenized("a"), tokenized("b", 1)) for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    with tarfile.open(one) as tar:
        members = tar.getmembers()
    assert [m.name for m in members] == ["a.json", "a.latents.safetensors", "b.json", "b.latents.safetensors"]
    assert {(m.mtime, m.uname, m.gname) for m in members} == {(0, "", "")}


def test_rounding_is_small() -> None:
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    assert (values.to(STORED_DTYPE).float() - values).square().mean().sqrt() < 5e-4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_latents_out_of_range_are_refused(value: float) -> None:
    clip = replace(tokenized("a").latents, audio=torch.full((5, 4), value))
    with pytest.raises(ValueError, match="audio latents are not finite"):
        latents_to_bytes(clip)


def test_the_record_states_the_shapes() -> None:
    record = sample_record(tokenized("a", silent=True).latents)
    assert (record.key, record.video, record.audio, record.text) == ("a", (2, 4, 6), None, 7)


def test_the_writer_says_where_latents_lie(tmp_path: Path) -> None:
    clips = [tokenized("a", 0), tokenized("二" * 60, 1, silent=True), tokenized("k" * 180, 2)]
    writer = ShardWriter(tmp_path / "a.tar")
    told = {clip.latents.key: writer.add(clip) for clip in clips}
    assert not (tmp_path / "a.tar").exists()
    writer.close()
    content = (tmp_path / "a.tar").read_bytes()
    for clip in clips:
        span = told[clip.latents.key]
        payload = content[span.offset : span.offset + span.num_bytes]
        assert_same(latents_from_bytes(clip.latents.key, payload), clip.latents, STORED_DTYPE)
    assert find_spans(tmp_path / "a.tar") == {key: replace(span, checksum=None) for key, span in told.items()}
    record = sample_record(clips[0].latents, told["a"])
    assert (record.offset, record.num_bytes) == (told["a"].offset, told["a"].num_bytes)


def test_missing_and_damaged_shards(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="missing"):
        list(read_shard(tmp_path / "none.tar"))
    path = write(tmp_path / "a.tar", tokenized("a"), tokenized("b"))
    path.write_bytes(path.read_bytes()[:1200])
    with pytest.raises(ValueError, match="damaged"):
        list(read_shard(path))


def folder_with_test_clips(path: Path, num_clips: int) -> Path:
    folder = ShardFolder(folder=path, settings={}, shard_bytes=3000)
    folder.write_split("test", [tokenized(f"clip{i}", i) for i in range(num_clips)])
    write_null_text(path, torch.full((3, 8), 0.1))
    record = TokenizerRecord(tokenizer_class="c", num_channels=1, fingerprint="f")
    folder.finish(
        Manifest(
            settings={},
            frames_per_second=25.0,
            samples_per_second=16_000,
            tokenizers={"video": record},
            shards=folder.records,
        )
    )
    return path


def test_held_out_clips_come_in_order_as_float32(tmp_path: Path) -> None:
    shards = folder_with_test_clips(tmp_path, 12)
    assert len(list(shards.glob("test-*.tar"))) > 1
    found = list(read_latent_clips(shards, "test"))
    for index, (latents, metadata) in enumerate(found):
        assert_same(latents, tokenized(f"clip{index}", index).latents, torch.float32)
        assert metadata.key == latents.key
    assert [latents.key for latents, _ in read_latent_clips(shards, "test", max_clips=2)] == ["clip0", "clip1"]
    assert len(found) == 12
    with pytest.raises(ValueError, match="no clips in the split 'validation'; it has test"):
        read_latent_clips(shards, "validation")


def test_null_text(tmp_path: Path) -> None:
    features = torch.randn(3, 8)
    write_null_text(tmp_path, features)
    assert torch.equal(read_null_text(str(tmp_path)), features)
    with pytest.raises(ValueError, match="hh-train tokenize"):
        read_null_text(tmp_path / "none")


def test_clips_are_read_from_afar_up_to_the_last_that_is_wanted(tmp_path: Path, web_folder: Any) -> None:
    folder = folder_with_test_clips(web_folder.folder / "shards", 12)
    url = f"{web_folder.url}/shards"
    assert read_manifest(url) == read_manifest(folder)
    for count in (None, 1, 5):
        wanted, found = (list(read_latent_clips(shards, "test", max_clips=count)) for shards in (folder, url))
        assert [metadata for _, metadata in found] == [metadata for _, metadata in wanted]
        for (ours, _), (theirs, _) in zip(found, wanted, strict=True):
            assert_same(ours, theirs, torch.float32)
    web_folder.requests.clear()
    list(read_latent_clips(url, "test", max_clips=1))
    asked = [span for path, span in web_folder.requests if path.endswith(".tar")]
    assert len(asked) == 1 and asked[0] is not None
    assert int(asked[0].rsplit("-", 1)[1]) < (folder / "test-000000.tar").stat().st_size / 2
    with pytest.raises(ValueError, match=r"no manifest\.json in http"):
        read_manifest(f"{web_folder.url}/elsewhere")
