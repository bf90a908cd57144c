"""Clips that show and sound the same, found by perceptual hashes: other codecs, sizes and bit rates do not matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from hh_train.types import Clip

_MOMENTS = 4
_PICTURE_SIDE, _COEFFICIENTS = 32, 8
_WINDOW, _SLOTS, _BANDS = 1024, 65, 5
_LOWEST_HERTZ, _HIGHEST_HERTZ = 150.0, 5000.0
_SILENCE = 1e-3
_BITS = 64
_WORDS = (_SLOTS - 1) * (_BANDS - 1) // _BITS


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What a clip looks and sounds like, in 64-bit numbers whose bits differ little between copies."""

    pictures: tuple[int, ...]
    """One each for moments spread over the clip."""
    sound: tuple[int, ...] | None
    """256 bits: where and in which pitch the sound grows; None when there is none."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Fingerprint:
        return cls(pictures=tuple(fields["pictures"]), sound=fields["sound"] and tuple(fields["sound"]))


def fingerprint(clip: Clip) -> Fingerprint:
    """The fingerprint of a decoded clip of any size."""
    at = np.linspace(0, clip.frames.shape[0] - 1, _MOMENTS).round().astype(int)
    return Fingerprint(
        pictures=tuple(_picture_hash(clip.frames[int(index)].cpu().numpy()) for index in at),
        sound=None if clip.waveform is None else _sound_hash(clip.waveform.cpu(), clip.samples_per_second),
    )


@dataclass(frozen=True, kw_only=True)
class DuplicateSearch:
    """Which fingerprints count as the same."""

    max_picture_bits: int = 10
    """Bits of 64 in which the pictures may differ, on average over the clip."""
    max_sound_bits: int = 70
    """Bits of 256 in which the sounds may differ. One person before one background looks the same in every clip; it is
    the sound that tells them apart."""

    def __post_init__(self) -> None:
        if not (0 <= self.max_picture_bits < _BITS and 0 <= self.max_sound_bits < _WORDS * _BITS):
            raise ValueError(
                f"got max_picture_bits {self.max_picture_bits} and max_sound_bits {self.max_sound_bits}; "
                f"wanted 0 to below {_BITS} and {_WORDS * _BITS}"
            )

    def settings(self) -> dict[str, Any]:
        """All that the result depends on, as plain JSON values."""
        return asdict(self)

    def originals(self, prints: Sequence[Fingerprint]) -> list[int | None]:
        """For each clip the first one of those kept before that it is a copy of, or None.

        Every clip is compared with all that are kept.
        """
        pictures = np.array([found.pictures for found in prints], dtype=np.uint64).reshape(len(prints), _MOMENTS)
        sounds = np.array([found.sound or (0,) * _WORDS for found in prints], dtype=np.uint64).reshape(-1, _WORDS)
        is_silent = np.array([found.sound is None for found in prints], dtype=bool)
        kept = np.empty(len(prints), dtype=np.int64)  # of these and the next two, the first `count`
        kept_pictures, kept_silent = np.empty_like(pictures), np.empty_like(is_silent)
        count = 0
        found: list[int | None] = []
        for index in range(len(prints)):
            near = (kept_silent[:count] == is_silent[index]) & (
                _distance(kept_pictures[:count], pictures[index]) <= self.max_picture_bits * _MOMENTS
            )
            others = kept[:count][near]
            same = _distance(sounds[others], sounds[index]) <= self.max_sound_bits
            found.append(int(others[same][0]) if same.any() else None)
            if found[-1] is None:
                kept[count], kept_pictures[count], kept_silent[count] = index, pictures[index], is_silent[index]
                count += 1
        return found


def _distance(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Bits that differ between each row and `right`."""
    return np.asarray(np.bitwise_count(left ^ right).sum(axis=1), dtype=np.int64)


def _picture_hash(pixels: NDArray[np.uint8]) -> int:
    """The signs of the lowest frequencies of a 32 x 32 gray picture, against their median."""
    gray = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (_PICTURE_SIDE, _PICTURE_SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:_COEFFICIENTS, :_COEFFICIENTS].ravel()
    low[0] = 0.0  # brightness
    return _numbers(low > np.median(low))[0]


def _sound_hash(waveform: torch.Tensor, samples_per_second: int) -> tuple[int, ...] | None:
    """Whether a band grows more than the one below it, for 65 stretches of the clip and 5 bands; None for silence.

    The signs of the second difference of band energies, over time and pitch, as in Haitsma and Kalker, A Highly Robust
    Audio Fingerprinting System, 2002.
    """
    num_samples = waveform.shape[0]
    if not num_samples or float(waveform.square().mean().sqrt()) < _SILENCE:
        return None
    padded = torch.nn.functional.pad(waveform.float(), (0, max(0, 2 * _WINDOW - num_samples)))
    hop = max(64, min(_WINDOW // 2, num_samples // (4 * _SLOTS)))
    spectrum = torch.stft(padded, _WINDOW, hop, window=torch.hann_window(_WINDOW), return_complex=True).abs().square()
    edges = np.geomspace(_LOWEST_HERTZ, _HIGHEST_HERTZ, _BANDS + 1) * _WINDOW / samples_per_second
    bands = torch.stack([spectrum[int(low) : int(high) + 1].mean(0) for low, high in pairwise(edges)])
    level = (torch.nn.functional.adaptive_avg_pool1d(bands[None], _SLOTS)[0] + 1e-7).log()
    return _numbers((level.diff(dim=0).diff(dim=1) > 0).flatten().numpy())


def _numbers(bits: NDArray[np.bool_]) -> tuple[int, ...]:
    """64 bits a number."""
    return tuple(int.from_bytes(np.packbits(word).tobytes(), "big") for word in bits.reshape(-1, _BITS))
