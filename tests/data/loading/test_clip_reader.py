"""Clips of one shard set, from wherever it lies, and batches ahead of those who take them."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hh_train.data.loading.cache import DiskCache
from hh_train.data.loading.clip_reader import ClipReader, ShardReader, UnreadableClipError
from hh_train.data.loading.plan import FixedPlan, Place, PlannedClip
from hh_train.data.loading.shard_sets import Reading
from hh_train.data.loading.storage import Storage
from hh_train.data.shards.format import STORED_DTYPE, ShardWriter, TokenizedClip, checksum_of, sample_record
from hh_train.data.shards.manifest import SampleRecord
from hh_train.types import ClipMetadata, LatentClip, Prompt

SHARD = "train-000000.tar"


def clip(number: int) -> LatentClip:
    return LatentClip(
        key=f"clip {number}",
        video=torch.full((2, 2, 4, 4), float(number)),
        audio=torch.full((5, 3), float(number)),
        text=torch.full((4, 6), float(number)),
    )


def write(folder: Path, count: int = 6) -> list[SampleRecord]:
    writer = ShardWriter(folder / SHARD)
    samples = []
    for number in range(count):
        metadata = ClipMetadata(key=f"clip {number}", prompt=Prompt(description="A face"))
        samples.append(sample_record(clip(number), writer.add(TokenizedClip(latents=clip(number), metadata=metadata))))
    writer.close()
    return samples


def shard_reader(root: object, size: int = 0, cache: DiskCache | None = None) -> ShardReader:
    storage = Storage(str(root), first_wait_seconds=0.001, retries=2)
    return ShardReader(storage=storage, cache=cache, num_bytes={SHARD: size})


def assert_is(found: LatentClip, number: int) -> None:
    assert found.key == f"clip {number}" and found.video is not None
    assert found.video.dtype == torch.float16
    assert torch.equal(found.video.float(), torch.full((2, 2, 4, 4), float(number)))


def test_clips_are_read_by_their_places(tmp_path: Path) -> None:
    samples = write(tmp_path)
    reader = shard_reader(tmp_path)
    for number in (3, 0, 5):
        assert_is(reader.latents(SHARD, samples[number]), number)
        unplaced = replace(samples[number], offset=None, num_bytes=None)
        assert_is(reader.latents(SHARD, unplaced), number)


def test_what_is_not_as_recorded_is_told(tmp_path: Path) -> None:
    samples = write(tmp_path)
    reader = shard_reader(tmp_path)
    with pytest.raises(UnreadableClipError, match="other shapes"):
        reader.latents(SHARD, replace(samples[1], audio=6, checksum=None))
    with pytest.raises(UnreadableClipError, match="no latents"):
        reader.latents(SHARD, replace(samples[1], offset=0, checksum=None))
    with pytest.raises(UnreadableClipError, match="ends too early"):
        reader.latents(SHARD, replace(samples[1], offset=10**6))
    with pytest.raises(UnreadableClipError, match="not found in its shard"):
        reader.latents(SHARD, replace(samples[1], key="other", offset=None))
    with pytest.raises(ValueError, match=r"train-000001\.tar of .* is missing"):
        reader.latents("train-000001.tar", samples[1])


def test_the_headers_of_a_damaged_shard_are_read_up_to_the_damage(tmp_path: Path) -> None:
    samples = [replace(sample, offset=None) for sample in write(tmp_path)]
    spans = write(tmp_path)
    assert spans[3].offset is not None
    content = bytearray((tmp_path / SHARD).read_bytes())
    content[spans[3].offset - 512 : spans[3].offset] = b"x" * 512
    (tmp_path / SHARD).write_bytes(content)
    reader = shard_reader(tmp_path)
    assert_is(reader.latents(SHARD, samples[2]), 2)
    with pytest.raises(UnreadableClipError, match="not found in its shard"):
        reader.latents(SHARD, samples[3])


def test_a_copy_that_has_made_way_is_fetched_again(web_folder: Any, tmp_path: Path) -> None:
    samples = write(web_folder.folder)
    size = (web_folder.folder / SHARD).stat().st_size
    cache = DiskCache(tmp_path / "cache", max_bytes=2 * size, version="1")
    reader = shard_reader(web_folder.url, size, cache)
    reader.fetch(SHARD)
    assert [asked for _, asked in web_folder.requests] == [f"bytes=0-{size - 1}"]
    assert_is(reader.latents(SHARD, samples[1]), 1)
    assert len(web_folder.requests) == 1
    for path in cache.folder.glob("*.tar"):
        path.unlink()
    assert_is(reader.latents(SHARD, replace(samples[2], offset=None)), 2)
    assert len(web_folder.requests) == 2


def clip_reader(root: object, **arguments: Any) -> ClipReader:
    return ClipReader(
        readers=[shard_reader(root)],
        null_text=torch.zeros(2, 6),
        patch=(1, 2, 2),
        reading=Reading(**arguments),
    )


def plan_of(samples: Sequence[SampleRecord]) -> FixedPlan:
    return FixedPlan(batches=[[PlannedClip(shard=SHARD, sample=sample)] for sample in samples])


@pytest.mark.parametrize("threads", [0, 3])
def test_conditions_are_put_on_a_clip(tmp_path: Path, threads: int) -> None:
    sample = write(tmp_path)[3]
    planned = [
        PlannedClip(shard=SHARD, sample=sample),
        PlannedClip(shard=SHARD, sample=sample, drops_text=True, num_given_frames=1),
        PlannedClip(shard=SHARD, sample=sample, drops_video=True),
        PlannedClip(shard=SHARD, sample=sample, audio_is_given=True),
    ]
    found = clip_reader(tmp_path, threads=threads).delivery(FixedPlan(batches=[planned]), Place())
    batch = found.batch
    assert not found.skipped
    assert [layout.text for layout in batch.layouts] == [4, 2, 4, 4]
    assert [layout.num_video for layout in batch.layouts] == [8, 8, 0, 8]
    assert batch.video_is_given.tolist() == [False] * 8 + [True] * 4 + [False] * 12
    assert batch.audio_is_given.tolist() == [False] * 15 + [True] * 5
    assert batch.video.dtype == STORED_DTYPE, "latents travel as they are stored"
    assert batch.text.dtype == torch.float32, "the null prompt's features are not rounded"


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_batches_come_in_their_order(tmp_path: Path, threads: int) -> None:
    samples = write(tmp_path)
    reader = clip_reader(tmp_path, threads=threads, prefetch_batches=3)
    places = (Place(batch=number) for number in (4, 1, 5, 0, 2))
    found = [delivery.batch.keys[0] for delivery in reader.deliveries(plan_of(samples), places)]
    assert found == ["clip 4", "clip 1", "clip 5", "clip 0", "clip 2"]


def test_no_more_is_read_ahead_than_was_asked_for(tmp_path: Path) -> None:
    samples = write(tmp_path)
    asked: list[int] = []

    def places() -> Iterator[Place]:
        for number in range(1000):
            asked.append(number)
            yield Place(batch=number % 6)

    deliveries = clip_reader(tmp_path, threads=2, prefetch_batches=4).deliveries(plan_of(samples), places())
    for taken, _ in enumerate(islice(deliveries, 20)):
        assert len(asked) <= taken + 5
    before = threading.active_count()
    deliveries.close()  # type: ignore[attr-defined]
    assert threading.active_count() < before


def test_waiting_for_a_far_server_is_shared_by_threads(web_folder: Any) -> None:
    samples = write(web_folder.folder)
    busy, most = 0, 0
    lock = threading.Lock()
    answer = web_folder.server.RequestHandlerClass.do_GET

    def slowly(handler: Any) -> None:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
        threading.Event().wait(0.02)
        answer(handler)
        with lock:
            busy -= 1

    web_folder.server.RequestHandlerClass.do_GET = slowly
    reader = clip_reader(web_folder.url, threads=4)
    list(reader.deliveries(plan_of(samples * 4), (Place(batch=number) for number in range(24))))
    assert most == 4


@pytest.mark.parametrize("harm", ["one bit", "zeros", "shifted"])
def test_damage_that_still_reads_as_latents_is_noticed(tmp_path: Path, harm: str) -> None:
    sample = write(tmp_path)[2]
    assert sample.offset is not None and sample.num_bytes is not None
    content = bytearray((tmp_path / SHARD).read_bytes())
    stop = sample.offset + sample.num_bytes
    if harm == "one bit":
        content[stop - 1] ^= 1
    else:
        kept = bytes(8) if harm == "zeros" else content[stop - 9 : stop - 1]
        content[stop - 8 : stop] = kept
    (tmp_path / SHARD).write_bytes(content)
    with pytest.raises(UnreadableClipError, match="not those that were written"):
        shard_reader(tmp_path).latents(SHARD, sample)
    untold = replace(sample, checksum=None)
    assert shard_reader(tmp_path).latents(SHARD, untold).key == sample.key


@given(payload=st.binary(max_size=100), place=st.integers(0, 99), bit=st.integers(0, 7))
def test_any_bit_changes_the_checksum(payload: bytes, place: int, bit: int) -> None:
    changed = bytearray(payload)
    if payload:
        changed[place % len(payload)] ^= 1 << bit
        assert checksum_of(changed) != checksum_of(payload)
    assert checksum_of(memoryview(payload)) == checksum_of(payload) < 2**64
