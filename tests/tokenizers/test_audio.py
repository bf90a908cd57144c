"""Lengths, pitch, loudness and timing of decoded sound."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hh_train.tokenizers.audio import MelAudioTokenizer


def tone(hertz: float, amplitude: float = 0.3, num_samples: int = 16_000) -> Tensor:
    time = torch.arange(num_samples) / 16_000
    return amplitude * torch.sin(2 * math.pi * hertz * time) * (0.6 + 0.4 * torch.sin(2 * math.pi * 3 * time))


@pytest.fixture(scope="module")
def tokenizer() -> MelAudioTokenizer:
    codec = MelAudioTokenizer(channels=64)
    noise = torch.Generator().manual_seed(0)
    loudness = (0.03, 0.1, 0.3, 0.6)
    tones = [tone(hertz, amplitude) for hertz in torch.logspace(2, 3.6, 60).tolist() for amplitude in loudness]
    codec.fit([*tones, torch.zeros(16_000), 0.1 * torch.randn(16_000, generator=noise)])
    return codec


def loudness_db(waveform: Tensor) -> float:
    return 20 * math.log10(float(waveform.square().mean().sqrt()))


@pytest.mark.parametrize(
    ("num_samples", "num_latents"), [(640, 1), (23_680, 37), (23_700, 37), (23_990, 37), (24_001, 38)]
)
def test_lengths(tokenizer: MelAudioTokenizer, num_samples: int, num_latents: int) -> None:
    latent = tokenizer.encode(torch.zeros(num_samples))
    assert latent.shape == (num_latents, 64)
    assert tokenizer.decode(latent).shape == (num_latents * 640,)


@pytest.mark.parametrize("hertz", [220.0, 523.0, 1760.0])
@pytest.mark.parametrize("amplitude", [0.05, 0.5])
def test_pitch_and_loudness_survive(tokenizer: MelAudioTokenizer, hertz: float, amplitude: float) -> None:
    original = tone(hertz, amplitude)
    decoded = tokenizer.decode(tokenizer.encode(original))
    spectrum = torch.fft.rfft(decoded).abs()  # bins of 1 Hz
    band = spectrum[int(hertz * 0.94) : int(hertz * 1.06) + 1].square().sum() / spectrum.square().sum()
    assert band > 0.5
    assert loudness_db(decoded) == pytest.approx(loudness_db(original), abs=2.0)


def test_sound_stays_where_it_was(tokenizer: MelAudioTokenizer) -> None:
    original = torch.zeros(16_000)
    original[6400:9600] = tone(800.0, 0.5)[:3200]
    decoded = tokenizer.decode(tokenizer.encode(original))
    assert decoded[6400:9600].square().sum() / decoded.square().sum() > 0.95


def test_silence_stays_silent(tokenizer: MelAudioTokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode(torch.zeros(6400))).abs().max() < 0.02


def test_decoding_is_deterministic_and_bounded(tokenizer: MelAudioTokenizer) -> None:
    latent = 5 * torch.randn(10, 64, generator=torch.Generator().manual_seed(0))
    first, second = tokenizer.decode(latent), tokenizer.decode(latent)
    assert torch.equal(first, second)
    assert first.isfinite().all()
    assert first.abs().max() <= 1


def test_rates(tokenizer: MelAudioTokenizer) -> None:
    assert (tokenizer.samples_per_second, tokenizer.latents_per_second, tokenizer.samples_per_latent) == (
        16_000,
        25,
        640,
    )


def test_asks_to_be_fitted() -> None:
    with pytest.raises(ValueError, match="fit"):
        MelAudioTokenizer().encode(torch.zeros(640))


@pytest.mark.parametrize(
    "arguments", [{"samples_per_second": 16_001}, {"floor": 0.0}, {"window": 500}, {"channels": 999}]
)
def test_rejects_impossible_settings(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="wanted"):
        MelAudioTokenizer(**arguments)


def test_decode_names_the_channels_that_it_wants(tokenizer: MelAudioTokenizer) -> None:
    with pytest.raises(ValueError, match="64"):
        tokenizer.decode(torch.zeros(10, 3))
