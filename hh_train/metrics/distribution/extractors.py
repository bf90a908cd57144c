"""Clips to feature vectors for distances between sets. A distance says what its features see, and no more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from hh_train.metrics.networks import file_fingerprint, load_torchscript, load_transformers, weights_fingerprint
from hh_train.metrics.sound.tracks import SAMPLES_PER_SECOND, require_sound
from hh_train.metrics.speech.recognizer import LogMel
from hh_train.types import Clip


@runtime_checkable
class ClipFeatures(Protocol):
    """One vector or several a clip."""

    @property
    def name(self) -> str:
        """In few words, for titles."""
        ...

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    def features(self, clip: Clip) -> Float[Tensor, "rows D"]:
        """Of a decoded clip. Raises ValueError for one that is too short, lacks sound or a part of it, or is of another
        rate.
        """
        ...

    def fingerprint(self) -> str:
        """Changes with the weights and with how media are prepared."""
        ...


# ------------------------------------------------------------------------------------------------------- pictures


class UntrainedVideoFeatures:
    """Two layers of random space-time convolutions, their magnitudes averaged over the clip: 64 numbers.

    No weights are needed, and none are learnt: the numbers follow color, texture, sharpness, noise and movement, and
    know nothing of what is seen. Distances of them are no FVD of the literature.

    Args:
        seed: of the random filters.
        short_side: in pixels that larger frames are reduced to.
    """

    name = "untrained network"
    dim = 64

    def __init__(self, *, seed: int = 0, short_side: int = 64) -> None:
        self.seed, self.short_side = seed, short_side
        generator = torch.Generator().manual_seed(seed)
        self._layers = nn.ModuleList(
            (
                nn.Conv3d(3, 32, (3, 5, 5), stride=(1, 2, 2), bias=False),
                nn.Conv3d(32, 32, (3, 5, 5), stride=(1, 2, 2), bias=False),
            )
        ).requires_grad_(False)
        for layer in self._layers:
            weight = layer.weight
            assert isinstance(weight, Tensor)
            weight.copy_(torch.randn(weight.shape, generator=generator) * weight[0].numel() ** -0.5)

    def fingerprint(self) -> str:
        return f"untrained video {self.short_side} {weights_fingerprint(self._layers)}"

    @torch.no_grad()
    def features(self, clip: Clip) -> Float[Tensor, "1 64"]:
        """One vector. Raises ValueError for fewer than five frames, or a side shorter than 16 pixels."""
        count, height, width, _ = clip.frames.shape
        if count < 5 or min(height, width) < 16:
            raise ValueError(f"got {count} frames of {height}x{width}; these features need 5 frames of at least 16x16")
        pixels = clip.frames.permute(0, 3, 1, 2).float() / 127.5 - 1
        scale = self.short_side / min(height, width)
        if scale < 1:
            size = (round(height * scale), round(width * scale))
            pixels = functional.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)
        maps = pixels.permute(1, 0, 2, 3)[None]
        found = []
        for layer in self._layers:
            maps = layer(maps).abs()
            found.append(maps.mean(dim=(2, 3, 4))[0])
        return torch.cat(found)[None]


class TorchScriptVideoFeatures:
    """A video network saved by `torch.jit.save`, such as the I3D of FVD: [n, 3, frames, size, size] of -1 to 1 to
    [n, D].

    Args:
        path: of the module.
        name: of the network, for titles.
        dim: length of its vectors; 400 are I3D's logits.
        size: side of the square in pixels: frames are scaled to it by their short side, and their middle is taken.
        window_frames: that the network takes at once; null takes the whole clip.
        hop_frames: from one window to the next; null takes the first window alone.
        arguments: given to the network by name, such as `{rescale: false, resize: false, return_features: true}`.
        device: of the network.
    """

    def __init__(
        self,
        *,
        path: str,
        name: str = "I3D",
        dim: int = 400,
        size: int = 224,
        window_frames: int | None = 16,
        hop_frames: int | None = None,
        arguments: Mapping[str, bool] | None = None,
        device: str = "cpu",
    ) -> None:
        if dim < 1 or size < 1 or (window_frames or 1) < 1 or (hop_frames or 1) < 1:
            raise ValueError(
                f"got dim {dim}, size {size}, window_frames {window_frames}, hop_frames {hop_frames}; wanted 1 or more"
            )
        self.path, self.name, self.dim, self.size, self.device = path, name, dim, size, device
        self.window_frames, self.hop_frames = window_frames, hop_frames
        self.arguments = dict(arguments or {})

    @cached_property
    def _network(self) -> Callable[..., Any]:
        return load_torchscript(self.path, device=self.device)

    def fingerprint(self) -> str:
        settings = (self.dim, self.size, self.window_frames, self.hop_frames, sorted(self.arguments.items()))
        return f"torchscript video {settings} {file_fingerprint(self.path)}"

    @torch.no_grad()
    def features(self, clip: Clip) -> Float[Tensor, "rows D"]:
        """One vector a window. Raises ValueError for a clip shorter than one."""
        count = clip.frames.shape[0]
        window = self.window_frames or count
        if count < window:
            raise ValueError(f"got {count} frames; {self.name} takes {window} at once")
        starts = range(0, count - window + 1, self.hop_frames) if self.hop_frames else range(1)
        found = [self._embed(clip.frames[start : start + window]) for start in starts]
        return torch.cat(found).float().cpu()

    def _embed(self, frames: UInt8[Tensor, "F H W 3"]) -> Float[Tensor, "1 D"]:
        pixels = frames.to(self.device).permute(0, 3, 1, 2).float()
        short = min(pixels.shape[-2:])
        size = tuple(max(self.size, round(side * self.size / short)) for side in pixels.shape[-2:])
        pixels = functional.interpolate(pixels, size=size, mode="bilinear", align_corners=False)
        top, left = (size[0] - self.size) // 2, (size[1] - self.size) // 2
        square = pixels[..., top : top + self.size, left : left + self.size] / 127.5 - 1
        answer: Tensor = self._network(square.permute(1, 0, 2, 3)[None], **self.arguments)
        return _checked(answer, (1, self.dim), self.path)


# ------------------------------------------------------------------------------------------------------- sound


class LogMelSoundFeatures:
    """Mean and spread of 40 log-mel bands over windows of 0.96 s, each half over the next: 80 numbers a window.

    No weights are needed: the numbers follow loudness, spectrum and noise, and know nothing of words. Distances of them
    are no FAD of the literature.
    """

    name = "log-mel statistics"
    dim = 80
    _WINDOW, _HOP = 96, 48

    def __init__(self) -> None:
        self._mel = LogMel(num_mels=self.dim // 2)

    def fingerprint(self) -> str:
        return f"log-mel statistics {self._WINDOW} {self._HOP} {weights_fingerprint(self._mel)}"

    @torch.no_grad()
    def features(self, clip: Clip) -> Float[Tensor, "rows 80"]:
        """Rows of the windows; a shorter clip is one row."""
        frames = self._mel(require_sound(clip))
        windows = frames.unfold(0, self._WINDOW, self._HOP) if len(frames) >= self._WINDOW else frames.T[None]
        return torch.cat((windows.mean(dim=2), windows.std(dim=2, correction=0)), dim=1)


class WhisperSoundFeatures:
    """The encoder of a Whisper model, averaged over the clip: one vector. It hears voices and words best.

    Args:
        model: folder or id that transformers opens as a `WhisperModel`, such as `openai/whisper-base`.
        device: of the network.
    """

    name = "Whisper encoder"
    _STATES_PER_SECOND = 50

    def __init__(self, *, model: str, device: str = "cpu") -> None:
        self.model, self.device = model, device

    @cached_property
    def _network(self) -> Any:
        whisper: Any = load_transformers("WhisperModel", self.model, device=self.device)
        return whisper.get_encoder()

    @cached_property
    def _spectra(self) -> Any:
        from transformers import WhisperFeatureExtractor

        make: Any = WhisperFeatureExtractor
        return make(feature_size=self._network.config.num_mel_bins)

    @property
    def dim(self) -> int:
        return int(self._network.config.d_model)

    def fingerprint(self) -> str:
        return f"whisper encoder {weights_fingerprint(self._network)}"

    @torch.no_grad()
    def features(self, clip: Clip) -> Float[Tensor, "1 D"]:
        """One vector, over the part of Whisper's 30 s that the clip fills."""
        waveform = require_sound(clip)
        spectra = self._spectra(
            waveform.numpy(), sampling_rate=clip.samples_per_second, return_tensors="pt"
        ).input_features
        longest = 2 * int(self._network.config.max_source_positions)
        states: Tensor = self._network(spectra[..., :longest].to(self.device)).last_hidden_state[0]
        heard = round(waveform.shape[0] / clip.samples_per_second * self._STATES_PER_SECOND)
        return states[: max(heard, 1)].mean(dim=0, keepdim=True).float().cpu()


class TorchScriptSoundFeatures:
    """A sound network saved by `torch.jit.save`, such as a VGGish or PANNs: [n, samples] of mono sound to [n, D].

    Args:
        path: of the module.
        name: of the network, for titles.
        dim: length of its vectors.
        samples_per_second: that the network was trained with; clips of another rate are refused.
        window_seconds: of sound that it takes at once; null takes the whole clip.
        hop_seconds: from one window to the next; null is a whole window.
        device: of the network.
    """

    def __init__(
        self,
        *,
        path: str,
        name: str,
        dim: int,
        samples_per_second: int = SAMPLES_PER_SECOND,
        window_seconds: float | None = 0.96,
        hop_seconds: float | None = None,
        device: str = "cpu",
    ) -> None:
        if dim < 1 or (window_seconds or 1.0) <= 0 or (hop_seconds or 1.0) <= 0:
            raise ValueError(
                f"got dim {dim}, window_seconds {window_seconds}, hop_seconds {hop_seconds}; wanted all above 0"
            )
        self.path, self.name, self.dim, self.device = path, name, dim, device
        self.samples_per_second, self.window_seconds = samples_per_second, window_seconds
        self.hop_seconds = window_seconds if hop_seconds is None else hop_seconds

    @cached_property
    def _network(self) -> Callable[..., Any]:
        return load_torchscript(self.path, device=self.device)

    def fingerprint(self) -> str:
        settings = (self.dim, self.samples_per_second, self.window_seconds, self.hop_seconds)
        return f"torchscript sound {settings} {file_fingerprint(self.path)}"

    @torch.no_grad()
    def features(self, clip: Clip) -> Float[Tensor, "rows D"]:
        """One vector a window; a shorter clip is filled up with silence."""
        waveform = require_sound(clip, samples_per_second=self.samples_per_second)
        windows = waveform[None]
        if self.window_seconds is not None and self.hop_seconds is not None:
            size = round(self.window_seconds * self.samples_per_second)
            missing = max(size - waveform.shape[0], 0)
            hop = max(round(self.hop_seconds * self.samples_per_second), 1)
            windows = functional.pad(waveform, (0, missing)).unfold(0, size, hop)
        answer: Tensor = self._network(windows.to(self.device))
        return _checked(answer, (windows.shape[0], self.dim), self.path).float().cpu()


def _checked(answer: Tensor, shape: tuple[int, int], path: str) -> Tensor:
    if tuple(answer.shape) != shape:
        raise ValueError(f"{path} returned {tuple(answer.shape)}; wanted {shape}")
    return answer
