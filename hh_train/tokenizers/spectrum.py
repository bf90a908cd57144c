"""Short-time spectra, mel bands and phase reconstruction, in plain torch.

Sources: Slaney, "Auditory Toolbox" (1998), for the mel scale; Lee & Seung, "Algorithms for non-negative matrix
factorization" (2000), for the multiplicative update; Perraudin, Balazs & Sondergaard, "A fast Griffin-Lim
algorithm" (2013), for the phases.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor

LINEAR_HERTZ_PER_MEL = 200 / 3
LOG_REGION_HERTZ = 1000.0
LOG_REGION_MEL = LOG_REGION_HERTZ / LINEAR_HERTZ_PER_MEL
LOG_STEP = math.log(6.4) / 27
"""Above 1 kHz, 27 mel are a factor of 6.4 in frequency."""


def _mel_to_hertz(mel: Tensor) -> Tensor:
    logarithmic = LOG_REGION_HERTZ * torch.exp(LOG_STEP * (mel - LOG_REGION_MEL))
    return torch.where(mel < LOG_REGION_MEL, mel * LINEAR_HERTZ_PER_MEL, logarithmic)


def _hertz_to_mel(hertz: float) -> float:
    if hertz < LOG_REGION_HERTZ:
        return hertz / LINEAR_HERTZ_PER_MEL
    return LOG_REGION_MEL + math.log(hertz / LOG_REGION_HERTZ) / LOG_STEP


def mel_filters(*, num_mels: int, num_bins: int, samples_per_second: int) -> Float[Tensor, "M B"]:
    """Triangular bands from 0 Hz to half the sample rate on Slaney's mel scale, each row summing to 1.

    Raises:
        ValueError: a band is so narrow that no frequency bin falls into it.
    """
    top = samples_per_second / 2
    corners = _mel_to_hertz(torch.linspace(0, _hertz_to_mel(top), num_mels + 2, dtype=torch.float64))
    bins = torch.linspace(0, top, num_bins, dtype=torch.float64)
    widths = corners.diff()
    distance = corners[:, None] - bins[None]
    rising = -distance[:-2] / widths[:-1, None]
    falling = distance[2:] / widths[1:, None]
    filters = torch.minimum(rising, falling).clamp_min(0)
    totals = filters.sum(1, keepdim=True)
    if bool((totals == 0).any()):
        raise ValueError(
            f"{num_mels} mel bands are too many for {num_bins} frequency bins: take fewer bands or a longer window"
        )
    return (filters / totals).float()


class ShortTimeFourier:
    """Hann-windowed spectra of the frames of `hop` samples each, every frame centred in its window; and the way back.

    S samples give S / hop frames exactly. A sine of amplitude 1 has magnitude 1.
    """

    def __init__(self, *, window: int, hop: int) -> None:
        if window % hop or window < 2 * hop:
            raise ValueError(
                f"got a window of {window} samples for a hop of {hop}; wanted a multiple of the hop, twice it or more"
            )
        self.window_length = window
        self.hop = hop
        self.window = torch.hann_window(window)
        self._gain = 2 / float(self.window.sum())
        self._overlap = window // hop

    @property
    def num_bins(self) -> int:
        return self.window_length // 2 + 1

    def _padding(self) -> tuple[int, int]:
        left = (self.window_length - self.hop) // 2
        return left, self.window_length - self.hop - left

    def forward(self, waveform: Float[Tensor, " S"]) -> Complex[Tensor, "N B"]:
        """The spectra; S is a multiple of the hop."""
        padded = torch.nn.functional.pad(waveform, self._padding())
        frames = padded.unfold(0, self.window_length, self.hop) * self.window
        spectra: Tensor = torch.fft.rfft(frames) * self._gain
        return spectra

    def inverse(self, spectra: Complex[Tensor, "N B"]) -> Float[Tensor, " S"]:
        """The waveform whose spectra are nearest in the least-squares sense; N * hop samples."""
        frames = torch.fft.irfft(spectra, n=self.window_length) * self.window
        num_frames = frames.shape[0]
        summed = frames.new_zeros(num_frames + self._overlap - 1, self.hop)
        weight = frames.new_zeros(num_frames + self._overlap - 1, self.hop)
        pieces = frames.reshape(num_frames, self._overlap, self.hop)
        window = self.window.square().reshape(self._overlap, self.hop)
        for offset in range(self._overlap):
            summed[offset : offset + num_frames] += pieces[:, offset]
            weight[offset : offset + num_frames] += window[offset]
        left, right = self._padding()
        whole: Tensor = (summed / weight.clamp_min(1e-3)).flatten() / self._gain
        return whole[left : whole.shape[0] - right]


def magnitudes_from_mel(
    mel: Float[Tensor, "N M"], filters: Float[Tensor, "M B"], *, num_iterations: int = 12
) -> Float[Tensor, "N B"]:
    """Non-negative magnitudes whose mel bands are `mel`, by multiplicative updates from the smoothest guess."""
    guess = mel @ filters / filters.sum(0).clamp_min(1e-6)
    target = mel @ filters
    gram = filters.T @ filters
    for _ in range(num_iterations):
        guess = guess * (target / (guess @ gram).clamp_min(1e-12))
    return guess


def griffin_lim(
    magnitudes: Float[Tensor, "N B"],
    fourier: ShortTimeFourier,
    *,
    num_iterations: int,
    momentum: float = 0.99,
    seed: int = 0,
) -> Float[Tensor, " S"]:
    """A waveform with these magnitudes. The phases start at random from `seed`; projections make them consistent."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand(magnitudes.shape, generator=generator) * (2 * math.pi)
    spectra = torch.polar(magnitudes, start)
    previous = torch.zeros_like(spectra)
    for _ in range(num_iterations):
        consistent = fourier.forward(fourier.inverse(spectra))
        accelerated = consistent + momentum * (consistent - previous)
        previous = consistent
        spectra = accelerated * (magnitudes / accelerated.abs().clamp_min(1e-8))
    return fourier.inverse(spectra)
