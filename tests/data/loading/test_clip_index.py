"""Records into columns and back, and choices that look random but follow from names alone."""

from __future__ import annotations

import numpy as np
import pytest

from hh_train.data.loading.clip_index import ClipColumns, ClipIndex, digest_of, scrambled, uniform
from hh_train.data.shards.manifest import Manifest, Moments, SampleRecord, ShardRecord

RECORDS = (
    SampleRecord(key="a", video=(3, 4, 6), audio=9, text=5, offset=1024, num_bytes=77),
    SampleRecord(key="二 größer", video=None, audio=9, text=6, offset=4096, num_bytes=78),
    SampleRecord(key="", video=(1, 2, 2), audio=None, text=7),
)


def index(*records: SampleRecord, per_shard: int = 2) -> ClipIndex:
    shards = [
        ShardRecord(
            name=f"train-{start}.tar",
            split="train",
            num_bytes=10 + start,
            samples=records[start : start + per_shard],
            dropped=(),
            video=Moments(),
            audio=Moments(),
        )
        for start in range(0, len(records), per_shard)
    ]
    manifest = Manifest(
        settings={}, frames_per_second=25.0, samples_per_second=16_000, tokenizers={}, shards=tuple(shards)
    )
    return ClipIndex.of(manifest, "train")


def test_records_come_back() -> None:
    found = index(*RECORDS)
    assert len(found) == 3
    assert tuple(found.records(range(3))) == RECORDS
    assert found.records([2, 0]) == [RECORDS[2], RECORDS[0]]
    assert found.keys_in_order() == [record.key for record in RECORDS]
    assert [found.shards[number] for number in found.shard] == ["train-0.tar", "train-0.tar", "train-2.tar"]


def test_an_index_may_be_empty() -> None:
    assert len(index()) == 0


def test_columns_add_up() -> None:
    one, other = index(*RECORDS).columns, index(*RECORDS[:1]).columns
    both = ClipColumns.concatenate([one, other])
    assert len(both) == 4
    assert (both.take(np.array([3, 0])).hash == digest_of(b"a")).all()


def test_the_digest_sees_every_change() -> None:
    digests = {index(*records).digest() for records in (RECORDS, RECORDS[::-1], RECORDS[:2])}
    digests.add(index(*RECORDS, per_shard=1).digest())
    assert len(digests) == 4
    assert index(*RECORDS).digest() == index(*RECORDS).digest()


def test_draws_are_what_they_always_were() -> None:
    """A change here is a change of the order of every run: checkpoints could not go on with their very next batch."""
    assert scrambled(np.array([0, 1], dtype=np.uint64), "a", 1).tolist() == [6243072105124580214, 15643797456660915439]


def test_draws_are_uniform_and_differ_by_name() -> None:
    values = np.arange(50_000, dtype=np.uint64)
    one, other = uniform(values, 0, "text"), uniform(values, 0, "image")
    assert one.min() >= 0 and one.max() < 1
    assert np.histogram(one, bins=10, range=(0, 1))[0] == pytest.approx(5000, rel=0.06)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.02
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 0.02
