"""Budgets, order and proportions, by counting."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hh_train.data.loading.conditions import Conditions, Phase
from hh_train.data.loading.plan import (
    Budget,
    FixedPlan,
    Place,
    PlannedClip,
    TrainingPlan,
    WeightedManifest,
    validation_plan,
)
from hh_train.data.shards.manifest import Manifest, Moments, SampleRecord, ShardRecord

BUDGET = Budget(patch=(1, 2, 2), tokens_per_batch=100, null_text_tokens=10)


def sample(key: str, frames: int | None = 2, audio: int | None = 5, text: int = 3) -> SampleRecord:
    return SampleRecord(key=key, video=None if frames is None else (frames, 4, 4), audio=audio, text=text)


def of_samples(samples: list[SampleRecord], clips_per_shard: int, split: str = "train") -> Manifest:
    shards = [
        ShardRecord(
            name=f"{split}-{number:06d}.tar",
            split=split,
            num_bytes=1,
            samples=tuple(samples[start : start + clips_per_shard]),
            dropped=(),
            video=Moments(),
            audio=Moments(),
        )
        for number, start in enumerate(range(0, len(samples), clips_per_shard))
    ]
    return Manifest(settings={}, frames_per_second=25.0, samples_per_second=16_000, tokenizers={}, shards=tuple(shards))


def manifest(num_train: int, num_validation: int = 0, clips_per_shard: int = 7) -> Manifest:
    both = [
        of_samples(
            [
                sample(f"{split}{i}", frames=1 + i % 4, audio=None if i % 6 == 5 else 4 * (i % 4) + 1)
                for i in range(count)
            ],
            clips_per_shard,
            split,
        )
        for split, count in (("train", num_train), ("validation", num_validation))
    ]
    return replace(both[0], shards=both[0].shards + both[1].shards)


def conditions(text: float = 0.0, image: float = 0.0, audio: float = 0.0) -> Conditions:
    return Conditions(text_dropout=text, image_to_video_share=image, audio_to_video_share=audio)


def plan(num_train: int = 40, *, seed: int = 0, shards_in_hand: int = 2, lookahead: int = 256) -> TrainingPlan:
    return TrainingPlan(
        manifest=manifest(num_train),
        budget=BUDGET,
        conditions=conditions(),
        seed=seed,
        shards_in_hand=shards_in_hand,
        lookahead=lookahead,
    )


def keys(batches: list[list[PlannedClip]]) -> list[list[str]]:
    return [[clip.sample.key for clip in batch] for batch in batches]


def test_tokens_of_a_clip() -> None:
    """2 latent frames of 4 x 4 in patches of 2 x 2 are 8 tokens."""
    assert BUDGET.tokens(PlannedClip(shard="", sample=sample("a"))) == 8 + 5 + 3
    assert BUDGET.tokens(PlannedClip(shard="", sample=sample("a"), drops_text=True)) == 8 + 5 + 10
    assert BUDGET.tokens(PlannedClip(shard="", sample=sample("a", audio=None))) == 8 + 3
    assert BUDGET.tokens(PlannedClip(shard="", sample=sample("a", frames=None))) == 5 + 3


@given(texts=st.lists(st.integers(1, 87), max_size=30))
def test_batches_keep_order_and_budget(texts: list[int]) -> None:
    clips = [PlannedClip(shard="", sample=sample(str(i), text=text)) for i, text in enumerate(texts)]
    batches = list(BUDGET.batches(clips))
    assert [clip for batch in batches for clip in batch] == clips
    sizes = [sum(map(BUDGET.tokens, batch)) for batch in batches]
    assert all(0 < size <= 100 for size in sizes)
    firsts = [BUDGET.tokens(batch[0]) for batch in batches[1:]]
    assert all(size + first > 100 for size, first in zip(sizes, firsts, strict=False))  # closed only when full


def test_clips_that_cannot_be_packed_are_named() -> None:
    BUDGET.check([sample("fits", text=87)])
    with pytest.raises(ValueError, match=r"'long' has up to 101 tokens, but tokens_per_batch is 100"):
        BUDGET.check([sample("fits"), sample("long", text=88)])
    with pytest.raises(ValueError, match=r"'null' has up to 105 tokens"):  # the null prompt is the longer text
        BUDGET.check([sample("null", frames=23, audio=3, text=1)])
    with pytest.raises(ValueError, match=r"'odd' has video latents of T x h x w = \(2, 4, 5\)"):
        BUDGET.check([SampleRecord(key="odd", video=(2, 4, 5), audio=None, text=1)])


def test_epochs_are_functions_of_the_seed() -> None:
    assert plan().epoch(3) == plan().epoch(3)
    assert keys(plan().epoch(3)) != keys(plan().epoch(4))
    assert keys(plan().epoch(3)) != keys(plan(seed=1).epoch(3))


def test_an_epoch_has_every_clip_once() -> None:
    for epoch in range(3):
        found = [key for batch in keys(plan(100).epoch(epoch)) for key in batch]
        assert sorted(found) == sorted(f"train{i}" for i in range(100))


def test_shards_in_hand_are_mixed_and_no_others() -> None:
    """With one shard of seven in hand and no looking ahead, sevens of neighbours stay together."""
    one = plan(42, shards_in_hand=1, lookahead=1)
    found = [clip.shard for batch in one.epoch(0)[:-2] for clip in batch]
    assert len(list(dict.fromkeys(found))) >= 5
    assert all(len(set(found[start : start + 7])) == 1 for start in range(0, len(found), 7))
    mixed = [clip.shard for batch in plan(42, shards_in_hand=6).epoch(0) for clip in batch]
    assert any(len(set(mixed[start : start + 7])) > 2 for start in range(0, len(mixed), 7))


def test_a_single_small_epoch_still_has_a_batch() -> None:
    small = plan(2)
    assert [len(small.batch(place)) for place in islice(small.places_from(Place()), 5)] == [2] * 5


def realistic(count: int) -> Manifest:
    """256p clips of 1 to 10 s in five shapes of picture, some silent, a few single pictures and sounds alone."""
    draw = random.Random(0)
    samples = []
    for index in range(count):
        frames = 25 * draw.choice((1, 2, 2, 3, 3, 4, 4, 5, 5, 5, 5, 6, 8, 10)) + 1
        rows, columns = draw.choice(((16, 28), (16, 28), (28, 16), (22, 22), (20, 24)))
        kind = draw.random()
        video = (1 if kind < 0.05 else (frames - 1) // 4 + 1, rows, columns)
        samples.append(
            SampleRecord(
                key=f"clip {index}",
                video=None if 0.05 <= kind < 0.1 else video,
                audio=None if kind < 0.05 or kind > 0.9 else frames,
                text=draw.randint(40, 640),
            )
        )
    return of_samples(samples, 100)


@pytest.mark.parametrize("tokens_per_batch", [10_240, 16_384, 32_768])
def test_batches_of_a_realistic_mix_are_full(tokens_per_batch: int) -> None:
    budget = Budget(patch=(1, 2, 2), tokens_per_batch=tokens_per_batch, null_text_tokens=200)
    full = TrainingPlan(
        manifest=realistic(12_000), budget=budget, conditions=conditions(0.1, 0.1, 0.1), seed=0, shards_in_hand=8
    )
    sizes = [sum(map(budget.tokens, batch)) for batch in full.epoch(0)]
    assert max(sizes) <= tokens_per_batch
    assert sum(sizes) / len(sizes) >= 0.98 * tokens_per_batch


def many_segments(monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> TrainingPlan:
    monkeypatch.setattr("hh_train.data.loading.plan.BATCHES_PER_SEGMENT", 3)
    return plan(150, **arguments)


def test_an_epoch_in_many_segments_has_every_clip_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = many_segments(monkeypatch)
    assert whole.num_segments(0) > 5
    assert sorted(key for batch in keys(whole.epoch(2)) for key in batch) == sorted(f"train{i}" for i in range(150))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(first=st.integers(0, 200), step=st.integers(1, 40))
def test_any_place_is_found_from_any_other(monkeypatch: pytest.MonkeyPatch, first: int, step: int) -> None:
    """Walking batch by batch over several epochs, in steps, or in one go: the same batches."""
    whole = many_segments(monkeypatch)
    walked = list(islice(whole.places_from(Place()), first + 3 * step + 1))
    start = whole.advanced(Place(), first)
    assert start == walked[first]
    fresh = many_segments(monkeypatch)
    in_steps = list(islice(fresh.places_from(start, step=step), 4))
    assert in_steps == walked[first::step][:4]
    assert [fresh.batch(place) for place in in_steps] == [whole.batch(place) for place in in_steps]
    every = [batch for epoch in range(max(place.epoch for place in walked) + 1) for batch in whole.epoch(epoch)]
    assert [whole.batch(place) for place in in_steps] == every[first::step][:4]


def several(weights: tuple[float | None, ...] = (3.0, 1.0), **arguments: Any) -> TrainingPlan:
    """Sets of 40, 70, ... clips whose keys begin with the number of their set."""
    manifests = [
        WeightedManifest(
            manifest=of_samples([sample(f"{number}-{i}", frames=1 + i % 3) for i in range(40 + 30 * number)], 7),
            weight=weight,
        )
        for number, weight in enumerate(weights)
    ]
    defaults: dict[str, Any] = {"budget": BUDGET, "conditions": conditions(), "seed": 0, "shards_in_hand": 2}
    return TrainingPlan(manifest=manifests, **{**defaults, **arguments})


def test_sets_are_mixed_in_the_stated_proportions() -> None:
    mixed = several((3.0, 1.0), lookahead=1)
    for epoch in range(4):
        numbers = [clip.set_number for batch in mixed.epoch(epoch) for clip in batch]
        assert len(numbers) == 110
        assert numbers.count(0) in (82, 83)
        stretches = [numbers[start : start + 40] for start in range(0, 60, 10)]  # before the levelled end
        assert all(27 <= stretch.count(0) <= 33 for stretch in stretches)
    counts = Counter(clip.sample.key for epoch in range(8) for batch in mixed.epoch(epoch) for clip in batch)
    first = [count for key, count in counts.items() if key.startswith("0-")]
    second = [counts[f"1-{i}"] for i in range(70)]
    assert max(first) - min(first) <= 1  # over and over again, all clips equally often
    assert max(second) - min(second) <= 1
    assert sum(first) == pytest.approx(0.75 * 880, abs=8)  # rounded to whole clips in each of 8 epochs


def test_sets_without_weights_are_gone_through_once() -> None:
    found = [clip.sample.key for batch in several((None, None, None)).epoch(1) for clip in batch]
    assert len(found) == len(set(found)) == 40 + 70 + 100


def test_clip_weights_say_how_often_a_clip_comes() -> None:
    records = [sample(f"{i}", frames=1 + i % 3) for i in range(40)]
    weights = {"3": 2.0, "5": 0.25, "7": 0.0, "9": 1.5}
    weighted = TrainingPlan(
        manifest=[WeightedManifest(manifest=of_samples(records, 7), clip_weights=weights)],
        budget=BUDGET,
        conditions=conditions(0.5),
        seed=0,
        shards_in_hand=2,
        clips_per_epoch=20,
    )
    num_passes = 8
    total = sum(weights.get(str(i), 1.0) for i in range(40)) * num_passes
    epochs = [[c for batch in weighted.epoch(e) for c in batch] for e in range(int(total / 20) + 1)]
    assert {len(found) for found in epochs} == {20}
    counts = Counter(clip.sample.key for found in epochs for clip in found)
    for key in map(str, range(40)):
        assert counts[key] == pytest.approx(weights.get(key, 1.0) * num_passes, abs=1), key
    twice = [clip.drops_text for found in epochs for clip in found if clip.sample.key == "3"]
    assert len(set(twice)) == 2  # each time it comes, conditions are drawn anew


def test_a_curriculum_begins_its_phases_at_their_epochs() -> None:
    phases = [
        Phase(from_epoch=4, weights=(0.0, 1.0), text_dropout=1.0),
        Phase(from_epoch=2, max_clip_tokens=14, text_dropout=0.0),
    ]
    taught = several((1.0, 1.0), phases=phases, conditions=conditions(0.5))
    plain = several((1.0, 1.0), conditions=conditions(0.5))
    assert taught.epoch(1) == plain.epoch(1)
    second = [clip for batch in taught.epoch(3) for clip in batch]
    assert {BUDGET.tokens(clip) for clip in second} == {12}
    assert not any(clip.drops_text for clip in second)
    third = [clip for epoch in (4, 5) for batch in taught.epoch(epoch) for clip in batch]
    assert {clip.set_number for clip in third} == {1}
    assert all(clip.drops_text for clip in third)
    counts = Counter(c.sample.key for e in range(6) for batch in several((1.0, 1.0), phases=phases[:1]).epoch(e)
                     for c in batch if c.set_number == 1)  # fmt: skip
    assert max(counts.values()) - min(counts.values()) <= 1  # a change of weights leaves no clip behind


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": (1.0, None)}, "one for each"),
        ({"weights": (-1.0, 2.0)}, "below 0"),
        ({"weights": (0.0, 0.0)}, "one above"),
        ({"phases": [Phase(from_epoch=1, weights=(1.0,))]}, "1 weights for 2"),
        ({"phases": [Phase(from_epoch=1), Phase(from_epoch=1)]}, "epochs .1, 1."),
        ({"phases": [Phase(from_epoch=0, text_dropout=2.0)]}, "text_dropout"),
        ({"clips_per_epoch": 0}, "clips_per_epoch"),
    ],
)
def test_senseless_mixtures_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        several(**arguments)


def test_a_phase_that_leaves_no_clip_is_named() -> None:
    with pytest.raises(ValueError, match="phase from epoch 1 is 3; raise it"):
        several(phases=[Phase(from_epoch=1, max_clip_tokens=3)]).epoch(1)


def test_what_decides_the_order_is_told() -> None:
    assert plan().decided_by() == plan().decided_by()
    json.dumps(plan().decided_by())
    for other in (plan(41), plan(seed=1), plan(shards_in_hand=3), plan(lookahead=5)):
        assert other.decided_by() != plan().decided_by()


def test_a_fixed_plan_goes_round_once() -> None:
    fixed = FixedPlan(batches=[[PlannedClip(shard="s", sample=sample(str(i)))] for i in range(3)])
    found = [fixed.batch(place)[0].sample.key for place in fixed.places_from(Place(batch=1))]
    assert found == ["1", "2", "0"]


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("num_clips", [7, 20])
def test_validation_deals_every_clip_once_in_equal_numbers(num_clips: int, num_ranks: int) -> None:
    batches = validation_plan([manifest(1, num_clips)], "validation", BUDGET, max_clips=None, num_ranks=num_ranks)
    assert len(batches) % num_ranks == 0
    assert sorted(key for batch in keys(batches) for key in batch) == sorted(f"validation{i}" for i in range(num_clips))
    assert not any(
        clip.drops_text or clip.num_given_frames or clip.audio_is_given for batch in batches for clip in batch
    )


def test_validation_repeats_clips_where_there_are_too_few() -> None:
    batches = keys(validation_plan([manifest(1, 3)], "validation", BUDGET, max_clips=None, num_ranks=5))
    assert len(batches) == 5
    assert {key for batch in batches for key in batch} == {"validation0", "validation1", "validation2"}
    assert validation_plan([manifest(1, 0)], "validation", BUDGET, max_clips=None, num_ranks=5) == []
    assert len(keys(validation_plan([manifest(1, 9)], "validation", BUDGET, max_clips=4, num_ranks=1))[0]) <= 4
