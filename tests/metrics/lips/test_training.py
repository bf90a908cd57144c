"""A language of three mouth shapes is learnt from a few clips, and a training repeats bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hh_train.metrics.lips.error_rate import LIPREAD, LipReading
from hh_train.metrics.lips.training import SpokenMouth, train

Mouths = Callable[..., list[SpokenMouth]]


def test_a_language_of_shapes_is_learnt_and_permuted_transcripts_are_not_read(spoken_mouths: Mouths) -> None:
    steps: list[int] = []
    reader = train(
        spoken_mouths(48, 0),
        max_steps=100,
        batch_size=16,
        width=48,
        num_blocks=2,
        report=lambda now: steps.append(now.step),
    )
    assert steps == list(range(1, 101)) and reader.config.unit == "word"
    held_out = spoken_mouths(20, 1)
    right, swapped = LipReading(), LipReading()
    for mouth, other in zip(held_out, [*held_out[2:], *held_out[:2]], strict=True):
        read = reader.read(mouth.crops, "English")
        right.update(mouth.key, transcript=mouth.transcript, read=read, language="en")
        swapped.update(mouth.key, transcript=other.transcript, read=read, language="en")
    rate, chance = right.compute()[LIPREAD].mean, swapped.compute()[LIPREAD].mean
    assert rate is not None and rate < 0.1
    assert chance is not None and chance > 0.4


def test_a_second_training_gives_the_same_weights(spoken_mouths: Mouths) -> None:
    few = spoken_mouths(6, 2)
    prints = {
        train(few, max_steps=2, batch_size=4, width=16, num_blocks=1, seed=seed).fingerprint() for seed in (0, 0, 1)
    }
    assert len(prints) == 2


def test_the_time_budget_ends_the_cycle(spoken_mouths: Mouths) -> None:
    fractions: list[float] = []
    train(
        spoken_mouths(4, 3),
        max_steps=10_000,
        max_seconds=0.3,
        batch_size=4,
        width=16,
        num_blocks=1,
        report=lambda now: fractions.append(now.fraction),
    )
    assert fractions[-1] == 1.0 and len(fractions) < 1000


def test_no_words_are_an_error() -> None:
    with pytest.raises(ValueError, match="without a single word"):
        train([], max_steps=1)
