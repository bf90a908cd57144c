"""Cepstra of known sounds: against closed forms, scipy's transform, and the values that SyncNet's front end gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hh_train.metrics.sync.mfcc import mfcc


def two_tones() -> torch.Tensor:
    samples = np.arange(4000)
    sound = 8000 * np.sin(2 * np.pi * 440 * samples / 16_000) + 2000 * np.sin(2 * np.pi * 1700 * samples / 16_000)
    return torch.from_numpy(np.round(sound) / 32768)


def test_two_tones_give_the_reference_values() -> None:
    """The fourth and the last step of python_speech_features 0.6 with its defaults."""
    cepstra = mfcc(two_tones())
    fourth = [19.7039, 20.5092, -14.3943, -4.4028, 9.0987, -27.634, -57.4051, -19.5954, 28.4248, 18.0137, -4.4222]
    last = [19.4642, 13.6374, -13.1272, -3.6436, 3.3575, -32.6439, -56.0784, -16.7428, 28.2677, 16.3499, -6.5058]
    assert np.allclose(cepstra[:, 3], [*fourth, 13.8311, 31.6176], atol=2e-3)
    assert np.allclose(cepstra[:, -1], [*last, 10.3723, 28.5698], atol=2e-3)


@pytest.mark.parametrize(("samples", "steps"), [(1, 1), (400, 1), (401, 2), (560, 2), (561, 3), (16_000, 99)])
def test_a_hundred_steps_a_second(samples: int, steps: int) -> None:
    assert mfcc(torch.full((samples,), 0.1)).shape == (13, steps)


def test_coefficient_zero_is_the_log_energy() -> None:
    """Parseval: the power of a window is 512 times the sum of its squares over the whole circle of bins."""
    sound = two_tones()
    raw = np.round(sound.numpy() * 32768)
    emphasized = np.append(raw[0], raw[1:] - 0.97 * raw[:-1])[160:560]
    spectrum = np.abs(np.fft.rfft(emphasized, 512)) ** 2 / 512
    both_sides = 2 * spectrum.sum() - spectrum[0] - spectrum[-1]
    assert both_sides == pytest.approx(float((emphasized**2).sum()), rel=1e-9)
    assert float(mfcc(sound)[0, 1]) == pytest.approx(math.log(spectrum.sum()), abs=1e-4)


def test_ten_times_louder_changes_the_energy_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    sound = torch.randn(8000, generator=generator) * 0.02
    quiet, loud = mfcc(sound), mfcc(sound * 10)
    assert torch.allclose(loud[0] - quiet[0], torch.tensor(2 * math.log(10)), atol=0.02)
    assert torch.allclose(loud[1:], quiet[1:], atol=0.35)  # the rounding to 16 bits


def test_silence_is_finite_and_nothing_is_refused() -> None:
    assert torch.isfinite(mfcc(torch.zeros(4000))).all()
    with pytest.raises(ValueError, match="no samples"):
        mfcc(torch.zeros(0))
