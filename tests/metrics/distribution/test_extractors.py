"""Features of clips: shapes, refusals, what the networks are given, and what the distances of features see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import WhisperConfig, WhisperModel

from hh_train.metrics.distribution.extractors import (
    ClipFeatures,
    LogMelSoundFeatures,
    TorchScriptSoundFeatures,
    TorchScriptVideoFeatures,
    UntrainedVideoFeatures,
    WhisperSoundFeatures,
)
from hh_train.metrics.distribution.feature_distance import FrechetDistance, KernelDistance
from hh_train.types import Clip


class FirstAndLast(nn.Module):
    """Mean level of the first and of the last frame, and the number of frames; with `double`, twice as much."""

    def forward(self, video: Tensor, double: bool = False) -> Tensor:
        found = torch.stack((video[:, :, 0].mean(), video[:, :, -1].mean(), torch.tensor(float(video.shape[2]))))[None]
        return found * 2 if double else found


class Energy(nn.Module):
    def forward(self, sound: Tensor) -> Tensor:
        return torch.stack((sound.square().mean(dim=1), sound.abs().amax(dim=1)), dim=1)


def clip(num_frames: int = 20, *, samples: int | None = None, rate: int = 16_000) -> Clip:
    """Frame i has the level 10 i; the sound is 0.5 and -0.5 in turn."""
    levels = (10 * torch.arange(num_frames)).to(torch.uint8)
    count = num_frames * rate // 25 if samples is None else samples
    return Clip(
        frames=levels[:, None, None, None].expand(-1, 24, 40, 3).contiguous(),
        frames_per_second=25.0,
        waveform=0.5 * (-1.0) ** torch.arange(count),
        samples_per_second=rate,
    )


def distances(generated: Sequence[Tensor], real: Sequence[Tensor]) -> tuple[float, float]:
    """Fréchet's and the kernel's, of the features of clips."""
    found = []
    for metric in (FrechetDistance(dim=real[0].shape[1]), KernelDistance(dim=real[0].shape[1])):
        for i, (rows, others) in enumerate(zip(generated, real, strict=True)):
            metric.update(str(i), rows, real=False)
            metric.update(str(i), others, real=True)
        value = metric.compute().value
        assert value is not None
        found.append(value)
    return found[0], found[1]


@pytest.mark.parametrize(
    ("harm", "amounts", "extractor"),
    [
        ("blur", (0.5, 1.0, 3.0), UntrainedVideoFeatures()),
        ("grain", (4.0, 12.0, 40.0), UntrainedVideoFeatures()),
        ("hiss", (0.003, 0.03, 0.3), LogMelSoundFeatures()),
    ],
)
def test_distances_without_weights_grow_with_blur_and_noise(
    real_files: Sequence[Clip],
    harmed: dict[str, Callable[[Clip, float], Clip]],
    harm: str,
    amounts: tuple[float, ...],
    extractor: ClipFeatures,
) -> None:
    real = [extractor.features(clip) for clip in real_files]
    none = distances(real, real)
    steps = [distances([extractor.features(harmed[harm](c, amount)) for c in real_files], real) for amount in amounts]
    assert none[0] == pytest.approx(0.0, abs=1e-6)
    frechet, kernel = zip(none, *steps, strict=True)
    assert list(frechet) == sorted(frechet) and frechet[-1] > 2 * frechet[1] > 1e-4
    assert list(kernel) == sorted(kernel)


def test_untrained_features_follow_their_seed_and_say_what_they_are(real_files: Sequence[Clip]) -> None:
    first, same, other = UntrainedVideoFeatures(), UntrainedVideoFeatures(), UntrainedVideoFeatures(seed=1)
    assert isinstance(first, ClipFeatures)
    assert first.fingerprint() == same.fingerprint() != other.fingerprint()
    found = first.features(real_files[0])
    assert found.shape == (1, first.dim) and torch.equal(found, same.features(real_files[0]))
    assert not torch.allclose(found, other.features(real_files[0]))
    with pytest.raises(ValueError, match="need 5 frames"):
        first.features(clip(4))
    large = replace(clip(5), frames=clip(5).frames.repeat(1, 10, 10, 1))
    assert first.features(large).shape == (1, first.dim)


def test_a_scripted_video_network_sees_windows_of_squares(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(FirstAndLast()), str(tmp_path / "net.pt"))
    given = {"path": str(tmp_path / "net.pt"), "dim": 3, "size": 16}
    one = TorchScriptVideoFeatures(**given, window_frames=16).features(clip())
    assert one.tolist()[0] == pytest.approx([-1.0, 150 / 127.5 - 1, 16.0])
    several = TorchScriptVideoFeatures(**given, window_frames=8, hop_frames=4).features(clip())
    assert several[:, 0].tolist() == pytest.approx([40 * i / 127.5 - 1 for i in range(4)])
    whole = TorchScriptVideoFeatures(**given, window_frames=None, arguments={"double": True})
    assert whole.features(clip())[0, 2] == 40.0
    assert whole.fingerprint() != TorchScriptVideoFeatures(**given).fingerprint()
    with pytest.raises(ValueError, match="takes 21 at once"):
        TorchScriptVideoFeatures(**given, window_frames=21).features(clip())
    with pytest.raises(ValueError, match=r"returned \(1, 3\); wanted \(1, 400\)"):
        TorchScriptVideoFeatures(path=given["path"], size=16).features(clip())


def test_log_mel_statistics_are_rows_of_windows() -> None:
    extractor = LogMelSoundFeatures()
    assert extractor.features(clip(20)).shape == (1, 80)
    assert extractor.features(clip(96)).shape[0] == 7
    loud = extractor.features(clip(30))
    assert float(loud[:, 40:].abs().max()) < 0.2  # a steady sound has no spread but at its ends


def test_a_scripted_sound_network_sees_windows_filled_with_silence(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(Energy()), str(tmp_path / "net.pt"))
    given = {"path": str(tmp_path / "net.pt"), "name": "energy", "dim": 2}
    rows = TorchScriptSoundFeatures(**given, window_seconds=0.4, hop_seconds=0.2).features(clip(25))
    assert rows.tolist() == [pytest.approx([0.25, 0.5])] * 4
    short = TorchScriptSoundFeatures(**given, window_seconds=1.6).features(clip(20))
    assert short.tolist() == [pytest.approx([0.125, 0.5])]
    assert TorchScriptSoundFeatures(**given, window_seconds=None).features(clip(20)).shape == (1, 2)


def test_whisper_is_averaged_over_the_clip_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=60, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=80, max_source_positions=1500,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    WhisperModel(config).save_pretrained(tmp_path)
    extractor = WhisperSoundFeatures(model=str(tmp_path))
    first, second = extractor.features(clip(25)), extractor.features(replace(clip(25), waveform=torch.zeros(16_000)))
    assert first.shape == (1, extractor.dim) == (1, 8)
    assert float((first - second).abs().max()) > 1e-3


@pytest.mark.parametrize("extractor", [LogMelSoundFeatures()])
def test_sound_of_another_rate_truncated_and_none_are_refused(extractor: ClipFeatures) -> None:
    with pytest.raises(ValueError, match="48000 Hz; read the clip at 16000 Hz"):
        extractor.features(clip(rate=48_000))
    with pytest.raises(ValueError, match="truncated"):
        extractor.features(clip(samples=8000))
    with pytest.raises(ValueError, match="no sound track"):
        extractor.features(replace(clip(), waveform=None))
