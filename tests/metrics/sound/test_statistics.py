"""Sounds whose numbers are known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hh_train.metrics.sound.statistics import Sound, integrated_loudness, measure_sound

RATE = 16_000


def sine(hertz: float, *, amplitude: float = 1.0, seconds: float = 1.0, rate: int = RATE) -> Tensor:
    return amplitude * torch.sin(torch.arange(round(seconds * rate)) * 2 * torch.pi * hertz / rate)


def test_a_sine_and_a_square_wave() -> None:
    found = measure_sound(sine(100), samples_per_second=RATE)
    assert found.loudness_db == pytest.approx(20 * math.log10(1 / math.sqrt(2)), abs=1e-3)
    assert found.silence_share == 0.0
    half = torch.cat((sine(100, amplitude=0.1, seconds=0.5), torch.zeros(8000)))
    quiet = measure_sound(half, samples_per_second=RATE)
    assert quiet.silence_share == pytest.approx(0.5)
    assert quiet.loudness_db == pytest.approx(-20 + 20 * math.log10(1 / 2), abs=1e-2)
    assert quiet.clipping_share == 0.0
    assert measure_sound(sine(100).sign(), samples_per_second=RATE).clipping_share == pytest.approx(0.99, abs=0.02)


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_loudness_of_the_standards_tone(rate: int) -> None:
    """A full-scale sine of 997 Hz in one channel is -3.01 LUFS; ten times quieter is 20 less."""
    assert integrated_loudness(sine(997, seconds=3, rate=rate), samples_per_second=rate) == pytest.approx(
        -3.01, abs=0.1
    )
    soft = sine(997, amplitude=0.1, seconds=3, rate=rate)
    assert integrated_loudness(soft, samples_per_second=rate) == pytest.approx(-23.01, abs=0.1)


def test_loudness_hears_the_middle_and_passes_over_pauses() -> None:
    low, middle = (measure_sound(sine(f, seconds=2), samples_per_second=RATE) for f in (40, 2000))
    assert low.lufs is not None and middle.lufs is not None
    assert low.loudness_db == pytest.approx(middle.loudness_db, abs=0.01)
    assert middle.lufs > low.lufs + 3
    paused = torch.cat((sine(997, seconds=2), torch.zeros(6 * RATE)))
    found = measure_sound(paused, samples_per_second=RATE)
    assert found.lufs == pytest.approx(-3.01, abs=0.5)
    assert found.loudness_db == pytest.approx(-9.03, abs=0.1)


def test_where_loudness_is_not_defined() -> None:
    silent = measure_sound(torch.zeros(RATE), samples_per_second=RATE)
    assert (silent.loudness_db, silent.lufs, silent.silence_share) == (-100.0, None, 1.0)
    assert integrated_loudness(sine(997, seconds=0.3), samples_per_second=RATE) is None
    with pytest.raises(ValueError, match="no samples"):
        measure_sound(torch.zeros(0), samples_per_second=RATE)
    with pytest.raises(ValueError, match="not finite"):
        measure_sound(torch.tensor([0.0, math.nan]), samples_per_second=RATE)


def test_the_metric_averages_clips_and_counts_what_is_undefined() -> None:
    metric = Sound()
    metric.update("tone", sine(997), samples_per_second=RATE)
    metric.update("silence", torch.zeros(RATE), samples_per_second=RATE)
    scores = metric.compute()
    assert scores["silence_share"].mean == 0.5
    assert (scores["lufs"].num_clips, scores["lufs"].num_undefined) == (1, 1)
