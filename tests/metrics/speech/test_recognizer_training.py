"""A language of three tones is learnt from a few recordings, and a training repeats bit for bit."""

from __future__ import annotations

import pytest
import torch

from hh_train.metrics.speech.recognizer_training import Utterance, one_cycle, train
from hh_train.metrics.speech.wer import SpeechErrorRate

TONES = {"low": 350.0, "middle": 1100.0, "high": 3200.0}


def utterances(count: int, seed: int) -> list[Utterance]:
    generator = torch.Generator().manual_seed(seed)
    made = []
    for i in range(count):
        words = [list(TONES)[int(k)] for k in torch.randint(3, (2 + i % 2,), generator=generator)]
        pieces = [torch.zeros(1200)]
        for word in words:
            detuned = TONES[word] * float(torch.empty(()).uniform_(0.97, 1.03, generator=generator))
            samples = torch.arange(4000)
            pieces += [0.3 * torch.sin(samples * 2 * torch.pi * detuned / 16_000), torch.zeros(1600)]
        sound = torch.cat(pieces)
        sound = sound + 0.002 * torch.randn(sound.shape, generator=generator)
        made.append(Utterance(key=f"{seed}-{i}", waveform=sound, transcript=" ".join(words), language="en"))
    return made


def test_a_language_of_tones_is_learnt() -> None:
    steps: list[int] = []
    recognizer = train(
        utterances(48, 0),
        max_steps=140,
        batch_size=16,
        width=48,
        num_blocks=2,
        vocoded_share=0.1,
        report=lambda now: steps.append(now.step),
    )
    assert steps == list(range(1, 141))
    metric = SpeechErrorRate()
    for spoken in utterances(20, 1):
        heard = recognizer.transcribe(spoken.waveform, "en")
        metric.update(spoken.key, spoken.transcript, heard, "en")
    rate = metric.compute()["error_rate"].mean
    assert rate is not None and rate < 0.1


def test_a_second_training_gives_the_same_weights() -> None:
    few = utterances(6, 2)
    prints = {
        train(few, max_steps=3, batch_size=4, width=16, num_blocks=1, seed=seed).fingerprint() for seed in (0, 0, 1)
    }
    assert len(prints) == 2


def test_the_time_budget_ends_the_cycle() -> None:
    fractions: list[float] = []
    train(
        utterances(4, 3),
        max_steps=10_000,
        max_seconds=0.5,
        batch_size=4,
        width=16,
        num_blocks=1,
        report=lambda now: fractions.append(now.fraction),
    )
    assert fractions[-1] == 1.0 and len(fractions) < 1000


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    rates = [one_cycle(i / 100) for i in range(101)]
    assert max(rates) == rates[20] == 1.0
    assert rates[0] < 0.1 and rates[100] == pytest.approx(0.0)
    assert rates[:21] == sorted(rates[:21]) and rates[20:] == sorted(rates[20:], reverse=True)


def test_no_words_are_an_error() -> None:
    with pytest.raises(ValueError, match="without a single character"):
        train([], max_steps=1)
