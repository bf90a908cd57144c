"""The Oobleck codec with small random weights of the same class: rates, draws, windows, references."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hh_train.tokenizers import AudioTokenizer, PretrainedTokenizer, load_tokenizer
from hh_train.tokenizers import oobleck as module
from hh_train.tokenizers.oobleck import OobleckAudioTokenizer, in_windows, resample

CHANNELS = 8


def save_model(folder: Path, channels: int) -> Path:
    """The structure and hop of Stable Audio's autoencoder, narrow."""
    from diffusers import AutoencoderOobleck

    torch.manual_seed(0)
    model = AutoencoderOobleck(
        encoder_hidden_size=2 * channels,  # means and spreads
        channel_multiples=[1, 1, 1, 1, 1],
        decoder_channels=4,
        decoder_input_channels=channels,
    )
    model.save_pretrained(folder / "vae")
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("oobleck"), CHANNELS)


@pytest.fixture(scope="module")
def tokenizer(source: Path) -> OobleckAudioTokenizer:
    return OobleckAudioTokenizer(source=str(source), device="cpu")


def sound(num_latents: int, seed: int = 0, rate: int = 48_000) -> Tensor:
    time = torch.arange(num_latents * rate // 25) / rate
    noise = torch.randn(time.shape, generator=torch.Generator().manual_seed(seed))
    return 0.3 * torch.sin(2 * math.pi * (200 + 50 * seed) * time) + 0.05 * noise


def test_it_plays_its_role(tokenizer: OobleckAudioTokenizer) -> None:
    assert isinstance(tokenizer, AudioTokenizer)
    assert isinstance(tokenizer, PretrainedTokenizer)
    assert tokenizer.num_channels == CHANNELS
    assert tokenizer.hop == 2048
    assert tokenizer.codec_samples_per_second == 51_200
    assert (tokenizer.samples_per_second, tokenizer.latents_per_second) == (48_000, 25)


@pytest.mark.parametrize("rate", [48_000, 51_200, 44_100, 16_000])
@pytest.mark.parametrize("num_latents", [1, 5, 13])
def test_one_latent_a_video_frame(source: Path, rate: int, num_latents: int) -> None:
    tokenizer = OobleckAudioTokenizer(source=str(source), device="cpu", samples_per_second=rate)
    latent = tokenizer.encode(sound(num_latents, rate=rate))
    assert latent.shape == (num_latents, CHANNELS)
    assert latent.dtype == torch.float32
    decoded = tokenizer.decode(latent)
    assert decoded.shape == (num_latents * rate // 25,)
    assert decoded.abs().max() <= 1


@pytest.mark.parametrize(("num_samples", "num_latents"), [(1_920 * 5 - 900, 5), (1_920 * 5 + 900, 5), (100, 0), (0, 0)])
def test_odd_lengths_are_cut_or_filled(tokenizer: OobleckAudioTokenizer, num_samples: int, num_latents: int) -> None:
    assert tokenizer.encode(0.1 * torch.ones(num_samples)).shape == (num_latents, CHANNELS)


def test_stable_audios_own_geometry(tmp_path: Path) -> None:
    tokenizer = OobleckAudioTokenizer(source=str(save_model(tmp_path, 64)), device="cpu")
    assert tokenizer.num_channels == 64
    latent = tokenizer.encode(sound(5))
    assert latent.shape == (5, 64)
    assert tokenizer.decode(latent).shape == (5 * 1_920,)


def test_nothing_decodes_to_nothing(tokenizer: OobleckAudioTokenizer) -> None:
    assert tokenizer.decode(torch.zeros(0, CHANNELS)).shape == (0,)


def test_latents_are_draws_from_the_posterior_of_stereo(source: Path) -> None:
    from diffusers import AutoencoderOobleck

    waveform = sound(40, rate=51_200)
    model = AutoencoderOobleck.from_pretrained(source / "vae").eval()
    with torch.no_grad():
        posterior = model.encode(waveform.expand(1, 2, -1)).latent_dist
    mean = OobleckAudioTokenizer(source=str(source), device="cpu", samples_per_second=51_200, seed=None).encode(
        waveform
    )
    torch.testing.assert_close(mean, posterior.mean[0].T, atol=1e-5, rtol=1e-4)
    drawn = OobleckAudioTokenizer(source=str(source), device="cpu", samples_per_second=51_200).encode(waveform)
    noise = (drawn - mean) / posterior.std[0].T
    assert abs(float(noise.mean())) < 0.15  # of 320 values
    assert float(noise.std()) == pytest.approx(1, abs=0.1)


def test_draws_depend_on_seed_and_sound_alone(source: Path, tokenizer: OobleckAudioTokenizer) -> None:
    first, second = sound(5, 0), sound(5, 1)
    latents = tokenizer.encode(first)
    tokenizer.encode(second)
    torch.manual_seed(1234)
    assert torch.equal(tokenizer.encode(first), latents)
    other_seed = OobleckAudioTokenizer(source=str(source), device="cpu", seed=1)
    assert not torch.allclose(other_seed.encode(first), latents, atol=1e-3)
    assert other_seed.fingerprint() != tokenizer.fingerprint()
    mean = OobleckAudioTokenizer(source=str(source), device="cpu", seed=None)
    noise = [tokenizer.encode(waveform) - mean.encode(waveform) for waveform in (first, second)]
    assert abs(float(torch.corrcoef(torch.stack([n.flatten() for n in noise]))[0, 1])) < 0.5  # of 40 values


def test_a_batch_gives_what_its_clips_give(tokenizer: OobleckAudioTokenizer) -> None:
    waveforms = [sound(5, 0), sound(9, 1), sound(5, 2)]
    for single, together in zip(map(tokenizer.encode, waveforms), tokenizer.encode_many(waveforms), strict=True):
        torch.testing.assert_close(together, single, atol=1e-5, rtol=1e-4)
    assert tokenizer.encode_many([]) == []


def test_long_sound_is_taken_in_windows(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = OobleckAudioTokenizer(source=str(source), device="cpu", seed=None)
    waveform = sound(120)
    latent = tokenizer.encode(waveform)
    decoded = tokenizer.decode(latent)
    monkeypatch.setattr(module, "WINDOW_SECONDS", 2)
    windowed = tokenizer.encode(waveform)
    assert windowed.shape == (120, CHANNELS)
    difference = (windowed - latent).abs().amax(1)
    assert difference.median() < 0.02 * latent.std()  # away from the ends of windows nothing changes
    assert difference.max() < 0.5 * latent.std()
    windowed_sound = tokenizer.decode(latent)
    assert windowed_sound.shape == decoded.shape
    assert (windowed_sound - decoded).square().mean() < 0.01 * decoded.square().mean()


@pytest.mark.parametrize("units", [7, 10, 11, 15, 16, 23])
@pytest.mark.parametrize(("unit_in", "unit_out"), [(1, 1), (4, 1), (1, 3)])
def test_windows_cover_all_and_fade_linearly(units: int, unit_in: int, unit_out: int) -> None:
    values = torch.arange(units * unit_in, dtype=torch.float32)[None, None]
    lengths: list[int] = []

    def function(piece: Tensor) -> Tensor:
        lengths.append(piece.shape[-1] // unit_in)
        return piece[..., ::unit_in].repeat_interleave(unit_out, dim=-1)

    found = in_windows(values, function, window=10, unit_in=unit_in, unit_out=unit_out)
    torch.testing.assert_close(found, values[..., ::unit_in].repeat_interleave(unit_out, dim=-1))
    assert max(lengths) <= 10
    assert len(lengths) == (1 if units <= 10 else math.ceil((units - 10) / 5) + 1)


def test_two_windows_fade_into_one_another_linearly() -> None:
    counter = iter((0.0, 1.0))

    def function(piece: Tensor) -> Tensor:
        return torch.full_like(piece, next(counter))

    found = in_windows(torch.zeros(1, 1, 15), function, window=10, unit_in=1, unit_out=1)[0, 0]
    assert found.tolist() == pytest.approx([0, 0, 0, 0, 0, 0.1, 0.3, 0.5, 0.7, 0.9, 1, 1, 1, 1, 1], abs=1e-6)


def tone_of(frequency: float, rate: int) -> Tensor:
    """A fifth of a second."""
    return torch.sin(2 * math.pi * frequency * torch.arange(rate // 5, dtype=torch.float64) / rate).float()


@pytest.mark.parametrize(("rate", "wanted"), [(48_000, 51_200), (51_200, 48_000), (44_100, 51_200)])
def test_resampling_keeps_tones(rate: int, wanted: int) -> None:
    for frequency in (440.0, 10_000.0, 19_000.0):
        tone, expected = (tone_of(frequency, r) for r in (rate, wanted))
        middle = slice(1_000, -1_000)
        assert (resample(tone, rate, wanted)[middle] - expected[middle]).abs().max() < 1e-4


def test_resampling_lets_nothing_fold_over() -> None:
    tone = tone_of(15_000, 48_000)
    assert resample(tone, 48_000, 16_000)[500:-500].abs().max() < 1e-4
    assert resample(tone, 48_000, 48_000) is tone


def test_it_is_saved_by_reference(source: Path, tmp_path: Path) -> None:
    tokenizer = OobleckAudioTokenizer(source=str(source), device="cpu", seed=5, samples_per_second=16_000)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, OobleckAudioTokenizer)
    assert loaded.fingerprint() == tokenizer.fingerprint()
    assert torch.equal(loaded.encode(sound(2, rate=16_000)), tokenizer.encode(sound(2, rate=16_000)))


def test_what_does_not_fit_is_told(source: Path, tokenizer: OobleckAudioTokenizer) -> None:
    with pytest.raises(ValueError, match=r"got an audio latent of shape \(3, 5\); wanted \[L, 8\]"):
        tokenizer.decode(torch.zeros(3, 5))
    with pytest.raises(ValueError, match="got 22051 samples a second; wanted a multiple of the 25 latents"):
        OobleckAudioTokenizer(source=str(source), samples_per_second=22_051)
