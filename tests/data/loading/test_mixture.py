"""Passes over a set, and proportions of several, by counting."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hh_train.data.loading.clip_index import ClipIndex
from hh_train.data.loading.mixture import ShuffledSet, interleaved, proportions
from hh_train.data.shards.manifest import Manifest, Moments, SampleRecord, ShardRecord


def index(count: int, per_shard: int = 5) -> ClipIndex:
    samples = [SampleRecord(key=str(i), video=(1, 2, 2), audio=1, text=1) for i in range(count)]
    shards = [
        ShardRecord(
            name=f"{start}",
            split="train",
            num_bytes=1,
            samples=tuple(samples[start : start + per_shard]),
            dropped=(),
            video=Moments(),
            audio=Moments(),
        )
        for start in range(0, count, per_shard)
    ]
    manifest = Manifest(settings={}, frames_per_second=1.0, samples_per_second=1, tokenizers={}, shards=tuple(shards))
    return ClipIndex.of(manifest, "train")


def shuffled(count: int = 23, *, weights: list[float] | None = None, seed: str = "0") -> ShuffledSet:
    return ShuffledSet(
        index(count), seed=seed, shards_in_hand=2, weights=None if weights is None else np.array(weights)
    )


def test_a_pass_has_every_clip_once_and_passes_differ() -> None:
    passes = [shuffled().take(23 * number, 23 * (number + 1))[0].tolist() for number in range(4)]
    assert all(sorted(found) == list(range(23)) for found in passes)
    assert len({tuple(found) for found in passes}) == 4
    assert passes[0] != shuffled(seed="1").take(0, 23)[0].tolist()


@given(start=st.integers(0, 120), length=st.integers(0, 60))
def test_any_stretch_is_a_part_of_the_whole(start: int, length: int) -> None:
    weights = [0.0, 2.5, 0.3] + [1.0] * 20
    whole_clips, whole_turns = shuffled(weights=weights).take(0, 200)
    clips, turns = shuffled(weights=weights).take(start, start + length)
    assert clips.tolist() == whole_clips[start : start + length].tolist()
    assert turns.tolist() == whole_turns[start : start + length].tolist()


@given(weights=st.lists(st.floats(0.0, 4.0), min_size=2, max_size=12).filter(lambda found: sum(found) >= 1))
def test_clips_come_as_often_as_they_weigh(weights: list[float]) -> None:
    one = shuffled(len(weights), weights=weights)
    num_passes = 12
    clips, turns = one.take(0, one._start_of(num_passes))
    counts = Counter(clips.tolist())
    assert all(abs(counts[i] - weight * num_passes) <= 1 for i, weight in enumerate(weights))
    assert len(set(zip(clips.tolist(), turns.tolist(), strict=True))) == len(clips)  # no turn comes twice


def test_shards_come_in_groups() -> None:
    clips = shuffled(40).take(0, 40)[0]
    shards = (clips // 5).tolist()
    assert all(len(set(shards[start : start + 10])) == 2 for start in range(0, 40, 10))
    assert any(shards[start] != shards[start + 1] for start in range(0, 40, 10))  # mixed within a group


@pytest.mark.parametrize("weights", [[1.0] * 22, [-1.0] + [1.0] * 22, [0.0] * 23, [float("nan")] * 23])
def test_senseless_clip_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="clip weights"):
        shuffled(weights=weights)


@given(shares=st.lists(st.floats(0.01, 10.0), min_size=2, max_size=2), num_clips=st.integers(1, 500))
def test_proportions_add_up(shares: list[float], num_clips: int) -> None:
    counts = proportions([shuffled(10), shuffled(40)], shares, num_clips)
    assert sum(counts) == num_clips
    for count, share in zip(counts, shares, strict=True):
        assert count == pytest.approx(num_clips * share / sum(shares), abs=1)


def test_proportions_go_by_size_and_a_pass_by_default() -> None:
    sets = [shuffled(10), shuffled(40)]
    assert proportions(sets, None, None) == [10, 40]
    assert proportions(sets, None, 5) == [1, 4]
    assert proportions(sets, [1.0, 1.0], None) == [25, 25]
    assert proportions(sets, [0.0, 1.0], 7) == [0, 7]


def test_every_stretch_has_the_proportions() -> None:
    sets = [shuffled(10), shuffled(40)]
    draws = interleaved(sets, [3, 7], [30, 90], seed="0", epoch=0)
    for start in range(110):
        assert draws.set_number[start : start + 8].tolist().count(0) in (1, 2, 3)
    assert draws.clip[draws.set_number == 0].tolist() == shuffled(10).take(3, 33)[0].tolist()
    assert draws.clip[draws.set_number == 1].tolist() == shuffled(40).take(7, 97)[0].tolist()
