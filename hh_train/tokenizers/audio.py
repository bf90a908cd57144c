"""The weight-free sound codec: folded log-mel frames on a fitted linear basis, decoded through Griffin-Lim."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hh_train.tokenizers.linear import LinearBasis
from hh_train.tokenizers.pretrained import PretrainedTokenizer
from hh_train.tokenizers.spectrum import ShortTimeFourier, griffin_lim, magnitudes_from_mel, mel_filters


class MelAudioTokenizer(PretrainedTokenizer):
    """Mono sound to `latents_per_second` latents: `frames_per_latent` log-mel frames each, on a basis of `channels`."""

    filters: Tensor

    def __init__(
        self,
        *,
        channels: int = 64,
        whitening: float = 0.5,
        samples_per_second: int = 16_000,
        latents_per_second: int = 25,
        frames_per_latent: int = 4,
        num_mels: int = 80,
        window: int = 480,
        floor: float = 1e-3,
        phase_iterations: int = 32,
    ) -> None:
        super().__init__()
        hop, remainder = divmod(samples_per_second, latents_per_second * frames_per_latent)
        if remainder:
            raise ValueError(
                f"got {samples_per_second} samples a second; wanted a multiple of the {latents_per_second} latents "
                f"of {frames_per_latent} frames"
            )
        if floor <= 0:
            raise ValueError(
                f"got a floor of {floor}; wanted a small positive magnitude, below which sound counts as silence"
            )
        self._samples_per_second = samples_per_second
        self._latents_per_second = latents_per_second
        self.frames_per_latent = frames_per_latent
        self.num_mels = num_mels
        self.floor = floor
        self.phase_iterations = phase_iterations
        self.fourier = ShortTimeFourier(window=window, hop=hop)
        filters = mel_filters(num_mels=num_mels, num_bins=self.fourier.num_bins, samples_per_second=samples_per_second)
        self.register_buffer("filters", filters, persistent=False)
        self.basis = LinearBasis(num_features=frames_per_latent * num_mels, num_channels=channels, whitening=whitening)

    def settings(self) -> dict[str, Any]:
        return {
            "channels": self.num_channels,
            "whitening": self.basis.whitening,
            "samples_per_second": self._samples_per_second,
            "latents_per_second": self._latents_per_second,
            "frames_per_latent": self.frames_per_latent,
            "num_mels": self.num_mels,
            "window": self.fourier.window_length,
            "floor": self.floor,
            "phase_iterations": self.phase_iterations,
        }

    def check_fitted(self) -> None:
        if not self.is_fitted:
            raise ValueError(
                "the audio tokenizer has no basis yet: call fit with training sound, or read one by from_pretrained"
            )

    @property
    def is_fitted(self) -> bool:
        return self.basis.is_fitted

    @property
    def num_channels(self) -> int:
        return self.basis.num_channels

    @property
    def samples_per_second(self) -> int:
        return self._samples_per_second

    @property
    def latents_per_second(self) -> int:
        return self._latents_per_second

    @property
    def samples_per_latent(self) -> int:
        return self._samples_per_second // self._latents_per_second

    def fit(self, waveforms: Iterable[Float[Tensor, " _"]]) -> None:
        """Fits the basis to all sound, in one pass. Raises ValueError when there is nothing to fit to."""
        self.basis.fit(self._to_features(waveform) for waveform in waveforms)

    @torch.no_grad()
    def encode(self, waveform: Float[Tensor, " S"]) -> Float[Tensor, "L C"]:
        """L = round(S / samples_per_second * latents_per_second): what is over is cut, what lacks is silence."""
        self.check_fitted()
        latents: Tensor = self.basis.encode(self._to_features(waveform))
        return latents

    @torch.no_grad()
    def decode(self, latent: Float[Tensor, "L C"]) -> Float[Tensor, " S"]:
        """Deterministic; S is L times the samples of a latent. Values are clipped to [-1, 1]."""
        self.check_fitted()
        if latent.ndim != 2 or latent.shape[1] != self.num_channels:
            raise ValueError(f"got an audio latent of shape {tuple(latent.shape)}; wanted [L, {self.num_channels}]")
        features: Tensor = self.basis.decode(latent.float())
        mel = features.reshape(-1, self.num_mels).exp().sub(self.floor).clamp(0, 1)
        magnitudes = magnitudes_from_mel(mel, self.filters)
        return griffin_lim(magnitudes, self.fourier, num_iterations=self.phase_iterations).clamp(-1, 1)

    def log_mel(self, waveform: Float[Tensor, " S"]) -> Float[Tensor, "N M"]:
        """log(floor + mean magnitude in the band) of each frame; S is a multiple of the hop."""
        magnitudes = self.fourier.forward(waveform.float()).abs()
        return (magnitudes @ self.filters.T + self.floor).log()

    def _to_features(self, waveform: Tensor) -> Tensor:
        """[S] to [L, D]."""
        if waveform.ndim != 1:
            raise ValueError(f"got a waveform of shape {tuple(waveform.shape)}; wanted mono, [S]")
        num_latents = round(waveform.shape[0] / self._samples_per_second * self._latents_per_second)
        wanted = num_latents * self.samples_per_latent
        fitted = torch.nn.functional.pad(waveform[:wanted], (0, max(0, wanted - waveform.shape[0])))
        return self.log_mel(fitted).reshape(num_latents, -1)
