"""Budgets and draws, by counting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hh_train.data.manifest import Manifest, Moments, SampleRecord, ShardRecord
from hh_train.data.plan import Budget, Conditions, PlannedClip, TrainingPlan, validation_plan

BUDGET = Budget(patch=(1, 2, 2), tokens_per_batch=100, null_text_tokens=10)


def sample(key: str, frames: int | None = 2, audio: int | None = 5, text: int = 3) -> SampleRecord:
    return SampleRecord(key=key, video=None if frames is None else (frames, 4, 4), audio=audio, text=text)


def manifest(num_train: int, num_validation: int = 0, clips_per_shard: int = 7) -> Manifest:
    shards = []
    for split, count in (("train", num_train), ("validation", num_validation)):
        samples = [
            sample(f"{split}{i}", frames=1 + i % 4, audio=None if i % 6 == 5 else 4 * (i % 4) + 1) for i in range(count)
        ]
        for number, start in enumerate(range(0, count, clips_per_shard)):
            record = ShardRecord(
                name=f"{split}-{number:06d}.tar",
                split=split,
                num_bytes=1,
                samples=tuple(samples[start : start + clips_per_shard]),
                dropped=(),
                video=Moments(),
                audio=Moments(),
            )
            shards.append(record)
    return Manifest(settings={}, frames_per_second=25.0, samples_per_second=16_000, tokenizers={}, shards=tuple(shards))


def conditions(text: float = 0.0, image: float = 0.0, audio: float = 0.0) -> Conditions:
    return Conditions(text_dropout=text, image_to_video_share=image, audio_to_video_share=audio)


def plan(num_train: int = 40, *, seed: int = 0, shards_in_hand: int = 2) -> TrainingPlan:
    return TrainingPlan(
        manifest=manifest(num_train), budget=BUDGET, conditions=conditions(), seed=seed, shards_in_hand=shards_in_hand
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


def test_draws_depend_on_seed_epoch_and_clip_alone() -> None:
    drawing = conditions(0.5, 0.5, 0.5)
    samples = [sample(f"clip{i}") for i in range(64)]

    def draw(order: list[SampleRecord], seed: int, epoch: int) -> dict[str, PlannedClip]:
        return {s.key: drawing.draw("shard", s, seed=seed, epoch=epoch) for s in order}

    assert draw(samples, 0, 0) == draw(samples[::-1], 0, 0)
    assert draw(samples, 0, 0) != draw(samples, 0, 1)
    assert draw(samples, 0, 0) != draw(samples, 1, 0)


def test_draws_have_their_shares_and_are_independent() -> None:
    drawing = conditions(0.2, 0.5, 0.4)
    drawn = [drawing.draw("s", sample(f"clip{i}"), seed=3, epoch=i % 5) for i in range(4000)]
    text, image, audio = (
        {i for i, clip in enumerate(drawn) if chosen(clip)}
        for chosen in (lambda c: c.drops_text, lambda c: c.num_given_frames == 1, lambda c: c.audio_is_given)
    )
    shares = [len(found) / 4000 for found in (text, image, audio, text & image, text & audio, image & audio)]
    assert shares == pytest.approx([0.2, 0.5, 0.4, 0.1, 0.08, 0.2], abs=0.025)


def test_something_is_always_left_to_generate() -> None:
    always = conditions(1.0, 1.0, 1.0)
    drawn = {
        name: always.draw("s", record, seed=0, epoch=0)
        for name, record in {
            "all": sample("a"),
            "still": sample("a", frames=1),
            "silent": sample("a", audio=None),
            "sound": sample("a", frames=None),
        }.items()
    }
    assert {name: (clip.num_given_frames, clip.audio_is_given) for name, clip in drawn.items()} == {
        "all": (1, True),
        "still": (0, True),
        "silent": (1, False),
        "sound": (0, False),
    }


@pytest.mark.parametrize("name", ["text_dropout", "image_to_video_share", "audio_to_video_share"])
@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_shares_lie_between_0_and_1(name: str, share: float) -> None:
    shares = {"text_dropout": 0.0, "image_to_video_share": 0.0, "audio_to_video_share": 0.0, name: share}
    with pytest.raises(ValueError, match=name):
        Conditions(**shares)


def test_epochs_are_functions_of_the_seed() -> None:
    assert plan().epoch(3) == plan().epoch(3)
    assert keys(plan().epoch(3)) != keys(plan().epoch(4))
    assert keys(plan().epoch(3)) != keys(plan(seed=1).epoch(3))


def test_an_epoch_has_every_clip_once_but_the_last_batch() -> None:
    found = [key for batch in keys(plan(100).epoch(0)) for key in batch]
    assert len(found) == len(set(found))
    assert 100 - 12 <= len(found) <= 100


def test_shards_in_hand_are_mixed_and_no_others() -> None:
    """With one shard of seven in hand, sevens of neighbours stay together."""
    found = [clip.shard for batch in plan(42, shards_in_hand=1).epoch(0) for clip in batch]
    assert len(list(dict.fromkeys(found))) >= 5
    assert all(len(set(found[start : start + 7])) == 1 for start in range(0, len(found), 7))
    mixed = [clip.shard for batch in plan(42, shards_in_hand=6).epoch(0) for clip in batch]
    assert any(len(set(mixed[start : start + 7])) > 2 for start in range(0, len(mixed), 7))


def test_a_single_small_epoch_still_has_a_batch() -> None:
    stream = plan(2).batches_from(0, 0)
    assert [len(next(stream)) for _ in range(5)] == [2] * 5


def test_the_stream_can_be_entered_anywhere() -> None:
    length = len(plan().epoch(0))
    whole, later = plan().batches_from(0, 0), plan().batches_from(0, length - 1)
    skipped = [next(whole) for _ in range(length - 1)]
    assert len(skipped) == length - 1
    assert [next(whole) for _ in range(4)] == [next(later) for _ in range(4)]


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("num_clips", [7, 20])
def test_validation_deals_every_clip_once_in_equal_numbers(num_clips: int, num_ranks: int) -> None:
    batches = validation_plan(manifest(1, num_clips), "validation", BUDGET, max_clips=None, num_ranks=num_ranks)
    assert len(batches) % num_ranks == 0
    assert sorted(key for batch in keys(batches) for key in batch) == sorted(f"validation{i}" for i in range(num_clips))
    assert not any(
        clip.drops_text or clip.num_given_frames or clip.audio_is_given for batch in batches for clip in batch
    )


def test_validation_repeats_clips_where_there_are_too_few() -> None:
    batches = keys(validation_plan(manifest(1, 3), "validation", BUDGET, max_clips=None, num_ranks=5))
    assert len(batches) == 5
    assert {key for batch in batches for key in batch} == {"validation0", "validation1", "validation2"}
    assert validation_plan(manifest(1, 0), "validation", BUDGET, max_clips=None, num_ranks=5) == []
    assert len(keys(validation_plan(manifest(1, 9), "validation", BUDGET, max_clips=4, num_ranks=1))[0]) <= 4


def test_sound_alone_is_drawn_at_its_share_and_costs_fewer_tokens() -> None:
    conditions = Conditions(text_dropout=0.0, image_to_video_share=0.5, audio_to_video_share=0.5, sound_only_share=0.25)
    samples = [SampleRecord(key=str(i), video=(7, 8, 8), audio=25, text=5) for i in range(2000)]
    drawn = [conditions.draw("shard", sample, seed=0, epoch=0) for sample in samples]
    alone = [clip for clip in drawn if clip.drops_video]
    assert 0.21 < len(alone) / len(drawn) < 0.29
    assert not any(clip.num_given_frames or clip.audio_is_given for clip in alone)
    budget = Budget(patch=(1, 2, 2), tokens_per_batch=1000, null_text_tokens=3)
    assert budget.tokens(alone[0]) == 30
    silent = SampleRecord(key="silent", video=(7, 8, 8), audio=None, text=5)
    only_sound = Conditions(text_dropout=0.0, image_to_video_share=0.0, audio_to_video_share=0.0, sound_only_share=1.0)
    assert not only_sound.draw("shard", silent, seed=0, epoch=0).drops_video
