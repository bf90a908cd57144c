"""The roles of the codecs. Every codec, fitted here or pretrained elsewhere, is used through these Protocols alone."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float, UInt8
from torch import Tensor


@runtime_checkable
class VideoTokenizer(Protocol):
    """Frames to latents and back. The first frame is a latent of its own: 4k+1 frames for a temporal stride of 4."""

    @property
    def num_channels(self) -> int: ...

    @property
    def stride(self) -> tuple[int, int, int]:
        """Pixels per latent along time, height and width."""
        ...

    def encode(self, frames: UInt8[Tensor, "F H W 3"]) -> Float[Tensor, "C T h w"]:
        """Raises ValueError unless F = 1 (mod temporal stride) and the strides divide H and W."""
        ...

    def decode(self, latent: Float[Tensor, "C T h w"]) -> UInt8[Tensor, "F H W 3"]: ...

    def fingerprint(self) -> str:
        """Hash of class, settings and weights: equal fingerprints, equal latents."""
        ...


@runtime_checkable
class AudioTokenizer(Protocol):
    """Mono sound to latents and back, at a whole number of latents a second."""

    @property
    def num_channels(self) -> int: ...

    @property
    def samples_per_second(self) -> int: ...

    @property
    def latents_per_second(self) -> int: ...

    def encode(self, waveform: Float[Tensor, " S"]) -> Float[Tensor, "L C"]:
        """L = round(S / samples_per_second * latents_per_second)."""
        ...

    def decode(self, latent: Float[Tensor, "L C"]) -> Float[Tensor, " S"]: ...

    def fingerprint(self) -> str: ...


@runtime_checkable
class TextTokenizer(Protocol):
    """A composed prompt to features. Positions are in the features: the model gives text none."""

    @property
    def num_channels(self) -> int: ...

    @property
    def max_tokens(self) -> int: ...

    @property
    def null_prompt(self) -> str:
        """The fixed negative prompt that stands for 'no text' in guidance and in text dropout."""
        ...

    def encode(self, prompt: str) -> Float[Tensor, "Nt C"]: ...

    def fingerprint(self) -> str: ...
