"""A language of three tones is learnt from a few recordings, and a training repeats bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hh_train.metrics.speech.recognizer import Recognizer
from hh_train.metrics.speech.recognizer_training import Utterance, train
from hh_train.metrics.speech.wer import SpeechErrorRate

MakeUtterances = Callable[[int, int], list[Utterance]]


def test_a_language_of_tones_is_learnt(
    make_utterances: MakeUtterances, hears_tones: tuple[Recognizer, list[int]]
) -> None:
    recognizer, steps = hears_tones
    assert steps == list(range(1, 141))
    metric = SpeechErrorRate()
    for spoken in make_utterances(20, 1):
        heard = recognizer.transcribe(spoken.waveform, "en")
        metric.update(spoken.key, spoken.transcript, heard, "en")
    rate = metric.compute()["error_rate"].mean
    assert rate is not None and rate < 0.1


def test_a_second_training_gives_the_same_weights(make_utterances: MakeUtterances) -> None:
    few = make_utterances(6, 2)
    prints = {
        train(few, max_steps=3, batch_size=4, width=16, num_blocks=1, seed=seed).fingerprint() for seed in (0, 0, 1)
    }
    assert len(prints) == 2


def test_the_time_budget_ends_the_cycle(make_utterances: MakeUtterances) -> None:
    fractions: list[float] = []
    train(
        make_utterances(4, 3),
        max_steps=10_000,
        max_seconds=0.5,
        batch_size=4,
        width=16,
        num_blocks=1,
        report=lambda now: fractions.append(now.fraction),
    )
    assert fractions[-1] == 1.0 and len(fractions) < 1000


def test_no_words_are_an_error() -> None:
    with pytest.raises(ValueError, match="without a single character"):
        train([], max_steps=1)
