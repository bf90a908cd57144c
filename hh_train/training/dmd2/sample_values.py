"""What a few generated clips show of a student that goes wrong: numbers to watch, not to report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hh_train.types import Clip

SILENT_DB = -50.0
"""Loudness below which a window holds silence, relative to full scale."""
WINDOW_SECONDS = 0.02
_QUIETEST = 1e-6


def brightness(clip: Clip) -> float:
    """Mean of all color values, in [0, 1]."""
    return float(clip.frames.float().mean()) / 255


def saturation(clip: Clip) -> float:
    """Mean over pixels of the largest less the smallest color value, in [0, 1]."""
    colors = clip.frames.float()
    return float((colors.amax(-1) - colors.amin(-1)).mean()) / 255


def motion(clip: Clip) -> float:
    """Mean size of the change from frame to frame, in [0, 1]; 0 for a single frame."""
    frames = clip.frames.float()
    return float((frames[1:] - frames[:-1]).abs().mean()) / 255 if len(frames) > 1 else 0.0


def loudness(clip: Clip) -> float:
    """Root mean square of the sound in dB relative to full scale; nan without sound."""
    return math.nan if clip.waveform is None else float(_decibels(clip.waveform.float().square().mean()))


def silence(clip: Clip) -> float:
    """Share of windows that hold silence; nan without sound."""
    if clip.waveform is None:
        return math.nan
    size = max(1, round(WINDOW_SECONDS * clip.samples_per_second))
    windows = clip.waveform.float().unfold(0, size, size) if len(clip.waveform) >= size else clip.waveform[None].float()
    return float((_decibels(windows.square().mean(-1)) < SILENT_DB).float().mean())


def seed_diversity(clip: Clip, other: Clip) -> float:
    """Mean difference of the frames of two clips of one prompt, in [0, 1]: 0 if the noise decides nothing."""
    return float((clip.frames.float() - other.frames.float()).abs().mean()) / 255


VALUES = {
    "brightness": brightness,
    "saturation": saturation,
    "motion": motion,
    "loudness": loudness,
    "silence": silence,
}


def mean_values(clips: Sequence[Clip], others: Sequence[Clip]) -> Mapping[str, float]:
    """Means over the clips, and over pairs with the clips of another seed; without the values that no clip has."""
    found = {name: [value(clip) for clip in clips] for name, value in VALUES.items()}
    found["seed_diversity"] = [seed_diversity(*pair) for pair in zip(clips, others, strict=True)]
    means = {name: _mean([value for value in values if not math.isnan(value)]) for name, values in found.items()}
    return {name: value for name, value in means.items() if not math.isnan(value)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _decibels(mean_square: Tensor) -> Tensor:
    return 10 * torch.log10(mean_square.clamp(min=_QUIETEST**2))
