"""The sound codec of Stable Audio: the Oobleck autoencoder of diffusers, 64 channels, run at 25 latents a second."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from math import gcd, prod
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hh_train.tokenizers.referenced import ReferencedTokenizer, by_shape

WINDOW_SECONDS = 29
"""Longer sound is taken in windows of this length, each overlapping the next by half."""
FILTER_HALF_LENGTH = 48
"""Zero crossings of the resampling filter on either side of its middle."""
FILTER_SHAPE = 10.0
"""Of its Kaiser window: what is folded over stays 100 dB down."""


class OobleckAudioTokenizer(ReferencedTokenizer):
    """Mono sound to draws from the posterior, not normalized: [L, 64] at `latents_per_second`.

    The autoencoder makes one latent of `hop` samples (2,048 in Stable Audio) and was trained at 44.1 kHz. So that its
    latents fall on video frames, sound is resampled to `hop * latents_per_second` samples a second (51,200) and then
    taken for 44.1 kHz stereo; decoding turns this back.

    The draw's noise comes from the seed and the sound itself: a clip's latents do not depend on what came before it.

    Args:
        source: folder or id with a diffusers `AutoencoderOobleck`.
        subfolder: where in the source it lies.
        revision: of an id.
        dtype: float32, bfloat16 or float16.
        samples_per_second: of the sound that goes in and comes out. Its resampling to the codec's own rate is in here.
        latents_per_second: the frame rate of the video beside it.
        seed: of the draws; null takes the posterior's mean.
        device: null is this process's accelerator, or else the CPU.
        content: the hash that the source must have.

    Raises:
        ValueError: a latent would not be a whole number of samples.
    """

    weights_name = "diffusion_pytorch_model.safetensors"

    def __init__(
        self,
        *,
        source: str,
        subfolder: str | None = "vae",
        revision: str | None = None,
        dtype: str = "float32",
        samples_per_second: int = 48_000,
        latents_per_second: int = 25,
        seed: int | None = 0,
        device: str | None = None,
        content: str | None = None,
    ) -> None:
        super().__init__(
            source=source, subfolder=subfolder, revision=revision, dtype=dtype, device=device, content=content
        )
        if samples_per_second % latents_per_second:
            raise ValueError(
                f"got {samples_per_second} samples a second; wanted a multiple of the {latents_per_second} latents"
            )
        self._samples_per_second = samples_per_second
        self._latents_per_second = latents_per_second
        self.seed = seed

    def latent_settings(self) -> dict[str, Any]:
        return {
            **super().latent_settings(),
            "samples_per_second": self._samples_per_second,
            "latents_per_second": self._latents_per_second,
            "seed": self.seed,
        }

    @property
    def num_channels(self) -> int:
        return int(self.model_config.get("decoder_input_channels", 64))

    @property
    def samples_per_second(self) -> int:
        return self._samples_per_second

    @property
    def latents_per_second(self) -> int:
        return self._latents_per_second

    @property
    def hop(self) -> int:
        """Samples that the autoencoder makes one latent of."""
        return prod(self.model_config.get("downsampling_ratios", (2, 4, 4, 8, 8)))

    @property
    def codec_samples_per_second(self) -> int:
        """The rate that sound is resampled to: 51,200 for a hop of 2,048 and 25 latents a second."""
        return self.hop * self._latents_per_second

    def encode(self, waveform: Float[Tensor, " S"]) -> Float[Tensor, "L C"]:
        """L = round(S / samples_per_second * latents_per_second): what is over is cut, what lacks is silence."""
        return self.encode_many([waveform])[0]

    @torch.no_grad()
    def encode_many(self, waveforms: Sequence[Float[Tensor, " _"]]) -> list[Float[Tensor, "_ _"]]:
        """`encode` of every waveform; those of one length go through the model together."""
        fitted = [self._fit_length(waveform) for waveform in waveforms]
        latents: list[Any] = [None] * len(fitted)
        for group in by_shape(fitted):
            mean, spread = self._posterior(torch.stack([fitted[index] for index in group]))
            for row, index in enumerate(group):
                latents[index] = self._draw(fitted[index], mean[row], spread[row]).T.contiguous()
        return latents

    @torch.no_grad()
    def decode(self, latent: Float[Tensor, "L C"]) -> Float[Tensor, " S"]:
        """S is L times the samples of a latent. Values are clipped to [-1, 1]."""
        if latent.ndim != 2 or latent.shape[1] != self.num_channels:
            raise ValueError(f"got an audio latent of shape {tuple(latent.shape)}; wanted [L, {self.num_channels}]")
        if not latent.shape[0]:
            return torch.zeros(0)
        model = self.model

        def sound(piece: Tensor) -> Tensor:
            decoded: Tensor = model.decode(piece.to(self.device, self.dtype)).sample
            return decoded.float().mean(1, keepdim=True).cpu()

        found = in_windows(latent.float().T[None], sound, window=self._window, unit_in=1, unit_out=self.hop)
        return resample(found[0, 0], self.codec_samples_per_second, self._samples_per_second).clamp(-1, 1)

    def load_model(self) -> Any:
        from diffusers import AutoencoderOobleck

        model, info = AutoencoderOobleck.from_pretrained(
            str(self.folder), torch_dtype=self.dtype, use_safetensors=True, output_loading_info=True
        )
        self.check_loaded(info)
        return model

    @property
    def _window(self) -> int:
        """Latents of a window."""
        return WINDOW_SECONDS * self._latents_per_second

    def _fit_length(self, waveform: Tensor) -> Tensor:
        if waveform.ndim != 1:
            raise ValueError(f"got a waveform of shape {tuple(waveform.shape)}; wanted mono, [S]")
        rate = self._samples_per_second
        num_latents = round(waveform.shape[0] / rate * self._latents_per_second)
        wanted = num_latents * (rate // self._latents_per_second)
        fitted = waveform[:wanted].float().cpu()
        return torch.nn.functional.pad(fitted, (0, wanted - fitted.shape[0]))

    def _posterior(self, waveforms: Tensor) -> tuple[Tensor, Tensor]:
        """[B, S] at the outer rate to mean and spread, each [B, C, L] in float32."""
        if not waveforms.shape[1]:
            empty = torch.zeros(waveforms.shape[0], self.num_channels, 0)
            return empty, empty
        model = self.model
        sound = resample(waveforms, self._samples_per_second, self.codec_samples_per_second)
        channels = int(model.config.audio_channels)

        def moments(piece: Tensor) -> Tensor:
            posterior = model.encode(piece.expand(-1, channels, -1).to(self.device, self.dtype)).latent_dist
            return torch.cat([posterior.mean.float(), posterior.std.float()], dim=1).cpu()

        found = in_windows(sound[:, None], moments, window=self._window, unit_in=self.hop, unit_out=1)
        mean, spread = found.chunk(2, dim=1)
        return mean, spread

    def _draw(self, waveform: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
        if self.seed is None:
            return mean
        digest = hashlib.blake2b(waveform.numpy().tobytes(), digest_size=8, key=str(self.seed).encode())
        generator = torch.Generator().manual_seed(int.from_bytes(digest.digest(), "big") >> 1)
        return mean + spread * torch.randn(mean.shape, generator=generator)


def in_windows(
    values: Float[Tensor, "B Cin N"],
    function: Callable[[Tensor], Tensor],
    *,
    window: int,
    unit_in: int,
    unit_out: int,
) -> Float[Tensor, "B Cout M"]:
    """`function` of a sequence, taken in windows that overlap by half and fade into one another linearly.

    A function of few enough units is applied to the whole. `function` makes `unit_out` values of every `unit_in`.

    Args:
        window: units of a window; they begin at whole units.
    """
    units = values.shape[-1] // unit_in
    if units <= window:
        return function(values)
    hop = window // 2
    starts = range(0, units - window + hop, hop)
    total, weights = torch.zeros(()), torch.zeros(units * unit_out)
    for start in starts:
        end = min(start + window, units)
        piece = function(values[..., start * unit_in : end * unit_in])
        fade = _fade(end - start, window - hop, start > 0, end < units, unit_out)
        if not total.ndim:
            total = torch.zeros(*piece.shape[:-1], units * unit_out)
        total[..., start * unit_out : end * unit_out] += piece * fade
        weights[start * unit_out : end * unit_out] += fade
    return total / weights


def _fade(length: int, overlap: int, fade_in: bool, fade_out: bool, unit: int) -> Tensor:
    """Weights [length * unit] that rise over the first `overlap` units and fall over the last."""
    ramp = (torch.arange(length * unit) + 0.5) / (overlap * unit)
    rising = ramp.clamp(max=1) if fade_in else torch.ones(length * unit)
    falling = ramp.flip(0).clamp(max=1) if fade_out else torch.ones(length * unit)
    return rising * falling


def resample(sound: Float[Tensor, "*B S"], rate: int, wanted_rate: int) -> Float[Tensor, "*B R"]:
    """Sound at another rate, band-limited, R = ceil(S * wanted_rate / rate)."""
    if rate == wanted_rate:
        return sound
    from scipy.signal import firwin, resample_poly

    divisor = gcd(rate, wanted_rate)
    up, down = wanted_rate // divisor, rate // divisor
    longest = max(up, down)
    taps = firwin(2 * FILTER_HALF_LENGTH * longest + 1, 1 / longest, window=("kaiser", FILTER_SHAPE))
    changed = resample_poly(sound.double().numpy(), up, down, axis=-1, window=taps)
    return torch.from_numpy(np.ascontiguousarray(changed)).float()
