"""What makes few recordings many for the recognizer: warps, masks, noise, and the sound of a vocoder.

Generated speech reaches the recognizer through a log-mel codec and a vocoder, which smear the spectrum and lose the
phase. Without hearing such sound in training the recognizer would count the codec's faults as the generator's.
"""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from hh_train.metrics.speech.recognizer import SAMPLES_PER_SECOND, mel_filters


def vocode(
    waveform: Float[Tensor, " S"], *, num_mels: int, num_iterations: int, generator: torch.Generator
) -> Float[Tensor, " S"]:
    """The waveform rebuilt from its mel spectrum alone: random phases, a few Griffin-Lim rounds.

    Griffin and Lim, "Signal estimation from modified short-time Fourier transform", 1984; momentum 0.99 after Perraudin
    et al., 2013.
    """
    size, hop = 1024, SAMPLES_PER_SECOND // 100
    window = torch.hann_window(size)
    filters, inverse = _mel_basis(num_mels, size // 2 + 1)
    spectrum = torch.stft(waveform, size, hop, window=window, return_complex=True)
    magnitude = (inverse @ (filters.T @ spectrum.abs())).clamp(min=0)
    angles = torch.rand(magnitude.shape, generator=generator) * 2 * torch.pi
    phase = torch.polar(torch.ones_like(magnitude), angles)
    previous = torch.zeros_like(phase)
    for _ in range(num_iterations):
        sound = torch.istft(magnitude * phase, size, hop, window=window, length=waveform.shape[0])
        rebuilt = torch.stft(sound, size, hop, window=window, return_complex=True)
        phase = rebuilt - previous * (0.99 / 1.99)
        phase = phase / phase.abs().clamp(min=1e-12)
        previous = rebuilt
    return torch.istft(magnitude * phase, size, hop, window=window, length=waveform.shape[0])


@cache
def _mel_basis(num_mels: int, num_bins: int) -> tuple[Tensor, Tensor]:
    """Mel filters [bins, mels] and the least-squares way back [bins, mels]."""
    filters = mel_filters(num_mels, num_bins)
    return filters, torch.linalg.pinv(filters.T)


def augment(
    log_mel: Float[Tensor, "frames mels"], generator: torch.Generator
) -> Float[Tensor, "augmented_frames mels"]:
    """One random variant of the log-mel frames of `recognizer.LogMel` (values from -1 to 0).

    Speed and pitch by resampling, a coloring of the spectrum, noise under the speech, a codec's smearing, and masked
    bands and moments (Park et al., "SpecAugment", 2019).
    """
    varied = _warp(log_mel, generator)
    varied = varied + _coloring(varied.shape[1], generator)
    varied = add_noise(varied, generator)
    varied = smear(varied, generator)
    varied = (varied - varied.max()).clamp(min=-1)
    return _mask(varied, generator)


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _warp(log_mel: Tensor, generator: torch.Generator) -> Tensor:
    """Speed 0.85 to 1.2, and the mel axis scaled by 0.88 to 1.14, which moves pitch and formants alike."""
    frames, mels = log_mel.shape
    num_frames = max(round(frames / _uniform(0.85, 1.2, generator)), 2)
    scale, offset = _uniform(0.88, 1.14, generator), _uniform(-2.0, 2.0, generator) / mels
    rows = torch.linspace(-1, 1, num_frames)[:, None].expand(num_frames, mels)
    columns = ((torch.linspace(0, 1, mels) * scale + offset) * 2 - 1)[None].expand(num_frames, mels)
    grid = torch.stack((columns, rows), dim=-1)[None]
    return functional.grid_sample(log_mel[None, None], grid, padding_mode="border", align_corners=True)[0, 0]


def _coloring(mels: int, generator: torch.Generator) -> Tensor:
    """A smooth curve over the mels, up to about 10 dB: another microphone or filter."""
    knots = torch.randn(1, 1, 5, generator=generator) * _uniform(0.0, 0.08, generator)
    return functional.interpolate(knots, size=mels, mode="linear", align_corners=True)[0]


def add_noise(log_mel: Tensor, generator: torch.Generator) -> Tensor:
    """Colored noise between 15 and 60 dB under the loudest frame; energies add."""
    if _uniform(0.0, 1.0, generator) < 0.3:
        return log_mel
    decades = 7.0
    level = _uniform(-6.0, -1.5, generator) / decades + _coloring(log_mel.shape[1], generator)
    grain = torch.rand(log_mel.shape, generator=generator).clamp(min=1e-3).log10() * 0.5 / decades
    return torch.logaddexp(log_mel * decades * 2.3026, (level + grain) * decades * 2.3026) / (decades * 2.3026)


def smear(log_mel: Tensor, generator: torch.Generator) -> Tensor:
    """A generator's faults: smoothing over time or mels, errors that are smooth over neighbors, a lost top band."""
    frames, mels = log_mel.shape
    kind = _uniform(0.0, 1.0, generator)
    image = log_mel[None, None]
    if kind < 0.25:
        image = functional.avg_pool2d(image, (3, 1), stride=1, padding=(1, 0), count_include_pad=False)
    elif kind < 0.4:
        image = functional.avg_pool2d(image, (3, 3), stride=1, padding=(1, 1), count_include_pad=False)
    if _uniform(0.0, 1.0, generator) < 0.6:
        coarse = torch.randn(1, 1, max(frames // 4, 1), mels // 4, generator=generator) * _uniform(0.0, 0.07, generator)
        image = image + functional.interpolate(coarse, size=(frames, mels), mode="bilinear", align_corners=True)
    if _uniform(0.0, 1.0, generator) < 0.2:
        lost = int(_uniform(0.75, 1.0, generator) * mels)
        image = torch.cat((image[..., :lost], image[..., lost:] - 0.3), dim=-1)
    return image[0, 0]


def _mask(log_mel: Tensor, generator: torch.Generator) -> Tensor:
    """Two masked bands of up to a tenth of the mels, and a masked moment of up to 50 ms a second of sound."""
    frames, mels = log_mel.shape
    masked = log_mel.clone()
    for _ in range(2):
        width = int(_uniform(0.0, mels / 10, generator))
        start = int(_uniform(0.0, float(mels - width), generator))
        masked[:, start : start + width] = -1
    for _ in range(max(frames // 100, 1)):
        width = min(int(_uniform(0.0, 6.0, generator)), frames)
        start = int(_uniform(0.0, float(frames - width), generator))
        masked[start : start + width] = -1
    return masked
