"""Spectra with known answers."""

from __future__ import annotations

import math

import pytest
import torch

from hh_train.tokenizers.spectrum import ShortTimeFourier, griffin_lim, magnitudes_from_mel, mel_filters

FOURIER = ShortTimeFourier(window=480, hop=160)


def sine(hertz: float, num_samples: int = 16_000, amplitude: float = 0.5) -> torch.Tensor:
    return amplitude * torch.sin(2 * math.pi * hertz / 16_000 * torch.arange(num_samples))


def test_a_sine_has_its_amplitude_at_its_frequency() -> None:
    spectra = FOURIER.forward(sine(1000.0)).abs()
    assert spectra.shape == (100, 241)
    middle = spectra[10:-10]
    assert (middle.argmax(1) == round(1000 / (16_000 / 480))).all()
    torch.testing.assert_close(middle.amax(1), torch.full((80,), 0.5), atol=1e-3, rtol=0)


def test_frames_are_centered_on_their_samples() -> None:
    click = torch.zeros(1600)
    click[5 * 160 + 80] = 1.0
    energy = FOURIER.forward(click).abs().square().sum(1)
    assert int(energy.argmax()) == 5
    torch.testing.assert_close(energy[4], energy[6], rtol=0.05, atol=0)


def test_the_inverse_gives_the_waveform_back() -> None:
    waveform = torch.randn(3200, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(FOURIER.inverse(FOURIER.forward(waveform)), waveform, atol=1e-4, rtol=0)


@pytest.mark.parametrize("window", [500, 160])
def test_windows_that_do_not_overlap_evenly_are_rejected(window: int) -> None:
    with pytest.raises(ValueError, match="multiple of the hop"):
        ShortTimeFourier(window=window, hop=160)


def test_mel_bands_average_and_cover_all_frequencies() -> None:
    filters = mel_filters(num_mels=80, num_bins=241, samples_per_second=16_000)
    torch.testing.assert_close(filters.sum(1), torch.ones(80))
    assert (filters >= 0).all()
    assert (filters[:, 1:-1].sum(0) > 0).all()
    centers = filters.argmax(1)
    assert (centers.diff() > 0).all()
    below_1_khz = int((centers * 16_000 / 480 < 1000).sum())
    assert 25 <= below_1_khz <= 27  # 80 bands over 45.2 mel, of which 15 lie below 1 kHz


def test_too_many_mel_bands_are_named() -> None:
    with pytest.raises(ValueError, match="too many"):
        mel_filters(num_mels=200, num_bins=100, samples_per_second=16_000)


def test_magnitudes_reproduce_the_mel_bands() -> None:
    filters = mel_filters(num_mels=40, num_bins=241, samples_per_second=16_000)
    truth = torch.rand(10, 241, generator=torch.Generator().manual_seed(0))
    mel = truth @ filters.T
    found = magnitudes_from_mel(mel, filters, num_iterations=200)
    assert (found >= 0).all()
    torch.testing.assert_close(found @ filters.T, mel, rtol=0.02, atol=0)


def test_griffin_lim_finds_a_waveform_with_the_magnitudes() -> None:
    magnitudes = FOURIER.forward(sine(440.0) + sine(1234.0, amplitude=0.2)).abs()
    found = griffin_lim(magnitudes, FOURIER, num_iterations=60)
    error = (FOURIER.forward(found).abs() - magnitudes).norm() / magnitudes.norm()
    unguided = griffin_lim(magnitudes, FOURIER, num_iterations=0)
    assert error < 0.1
    assert (FOURIER.forward(unguided).abs() - magnitudes).norm() / magnitudes.norm() > 2 * error


def test_griffin_lim_is_deterministic() -> None:
    magnitudes = FOURIER.forward(sine(440.0, 3200)).abs()
    first, second = (griffin_lim(magnitudes, FOURIER, num_iterations=3) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, griffin_lim(magnitudes, FOURIER, num_iterations=3, seed=1))
