"""Loudness is the standard's: known levels of known tones, and gains after which the meter reads the same."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hh_train.arena.loudness import PEAK, TARGET_LUFS, equal_gains, heard_loudness

RATE = 48_000


def tone(decibels: float, *, hertz: float = 1000.0, seconds: float = 2.0, rate: int = RATE) -> Tensor:
    time = torch.arange(round(seconds * rate)) / rate
    return 10 ** (decibels / 20) * torch.sin(2 * math.pi * hertz * time)


@pytest.mark.parametrize("decibels", [-50.0, -33.0, -23.0, -6.0])
@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_a_tone_reads_as_the_standard_says(decibels: float, rate: int) -> None:
    assert heard_loudness(tone(decibels, rate=rate), rate) == pytest.approx(decibels - 3.01, abs=0.1)


def test_the_ear_hears_low_tones_less() -> None:
    low, high = (heard_loudness(tone(-20, hertz=hertz), RATE) for hertz in (40.0, 4000.0))
    assert low is not None and high is not None
    assert high - low > 6


def test_pauses_do_not_count() -> None:
    paused = torch.cat([tone(-20), torch.zeros(4 * RATE)])
    assert heard_loudness(paused, RATE) == pytest.approx(-23.0, abs=0.5)


def test_short_sounds_are_measured_as_if_they_went_on() -> None:
    assert heard_loudness(tone(-20, seconds=0.1), RATE) == pytest.approx(-23.01, abs=0.2)


@pytest.mark.parametrize("silence", [torch.zeros(RATE), torch.zeros(0), 1e-6 * torch.ones(RATE)])
def test_silence_has_no_loudness(silence: Tensor) -> None:
    assert heard_loudness(silence, RATE) is None


def test_gains_make_sounds_equally_loud() -> None:
    waveforms = [tone(-40), tone(-10, hertz=300), 0.1 * torch.randn(RATE, generator=torch.manual_seed(0))]
    gains = equal_gains(waveforms, RATE)
    for waveform, gain in zip(waveforms, gains, strict=True):
        assert heard_loudness(gain * waveform, RATE) == pytest.approx(TARGET_LUFS, abs=0.1)


def test_all_are_quieter_where_one_cannot_be_louder_without_clipping() -> None:
    click = 1e-3 * torch.randn(RATE, generator=torch.manual_seed(0))
    click[100] = 1.0
    waveforms = [click, tone(-10)]
    gains = equal_gains(waveforms, RATE)
    assert float((gains[0] * click).abs().max()) == pytest.approx(PEAK, abs=1e-4)
    first, second = (heard_loudness(g * w, RATE) for g, w in zip(gains, waveforms, strict=True))
    assert first is not None and second == pytest.approx(first, abs=0.1) and second < TARGET_LUFS - 3


def test_silence_stays_and_moves_no_other() -> None:
    assert equal_gains([torch.zeros(RATE), None, tone(-20)], RATE) == [
        1.0,
        1.0,
        pytest.approx(10 ** (0.01 / 20), abs=0.02),
    ]
