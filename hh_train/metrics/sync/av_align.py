"""AV-Align: do moments at which the sound sets in and moments at which the picture moves most coincide?

Yariv et al., "Diverse and aligned audio-to-video generation via text-to-video model adaptation" (TempoTokens), 2023:
the intersection over union of the onsets of the sound and the peaks of the mean optical flow, which match when they are
at most one frame apart. A peak matches one onset only, so that the value is from 0 to 1; there are copies in which it
is not. Dense speech reaches about 0.2 by chance: it is a check of events, and a weak one of lips.

Peaks are strict local maxima of Farneback's flow of 0.1 pixels or more, at a shorter side of 256 pixels at the most.
Onsets are picked from the spectral flux of 40
mel bands by the rule of Böck et al., 2012, with the windows that librosa has made common.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from hh_train.metrics.clip_metric import ClipMetric
from hh_train.metrics.sound.tracks import SAMPLES_PER_SECOND, require_sound
from hh_train.metrics.speech.recognizer import mel_filters
from hh_train.types import Clip

LEAST_FLOW_PIXELS = 0.1
_LARGEST_SIDE = 256
_FARNEBACK = (0.5, 3, 15, 3, 5, 1.2, 0)
"""Pyramid scale and levels, window, iterations, neighborhood and its deviation, flags."""
_HOP, _FFT_SIZE, _NUM_MELS = 160, 512, 40
_STEPS_PER_SECOND = SAMPLES_PER_SECOND // _HOP
_RANGE_DECIBELS = 80.0
_BEFORE_PEAK, _AROUND_MEAN, _APART = 3, 10, 3
"""In steps of 10 ms: an onset is the largest value since 30 ms, stands out of the mean of 100 ms on either side, and is
30 ms after the one before it."""
_STANDS_OUT = 0.07


def flow_peaks(
    frames: UInt8[Tensor, "F H W 3"], *, frames_per_second: float, least_pixels: float = LEAST_FLOW_PIXELS
) -> list[float]:
    """Seconds at which the mean length of the flow from the frame before has a strict local maximum."""
    grays = [_gray(frame) for frame in frames.cpu().numpy()]
    lengths = []
    for before, after in pairwise(grays):
        flow = cv2.calcOpticalFlowFarneback(before, after, np.zeros((*before.shape, 2), np.float32), *_FARNEBACK)
        lengths.append(float(np.linalg.norm(flow, axis=-1).mean()))
    lengths = lengths[:1] + lengths
    return [
        i / frames_per_second
        for i in range(1, len(lengths) - 1)
        if lengths[i - 1] < lengths[i] > lengths[i + 1] and lengths[i] >= least_pixels
    ]


def onsets(waveform: Float[Tensor, " S"]) -> list[float]:
    """Seconds at which a 16 kHz sound sets in; none in silence."""
    strength = _onset_strength(waveform)
    if not strength.numel() or float(strength.max() - strength.min()) < 1e-6:
        return []
    strength = (strength - strength.min()) / (strength.max() - strength.min())
    found: list[int] = []
    for i, value in enumerate(strength.tolist()):
        is_largest = value >= float(strength[max(0, i - _BEFORE_PEAK) : i + 1].max())
        mean = float(strength[max(0, i - _AROUND_MEAN) : i + _AROUND_MEAN + 1].mean())
        if is_largest and value >= mean + _STANDS_OUT and (not found or i - found[-1] > _APART):
            found.append(i)
    return [i / _STEPS_PER_SECOND for i in found]


def matched_share(onset_seconds: Sequence[float], peak_seconds: Sequence[float], *, tolerance: float) -> float | None:
    """Intersection over union of two sets of moments, each matched once at most; None where both are empty.

    Both are taken in their order, which matches as many as can be.
    """
    first, second = sorted(onset_seconds), sorted(peak_seconds)
    if not first and not second:
        return None
    i = j = common = 0
    while i < len(first) and j < len(second):
        if abs(first[i] - second[j]) <= tolerance + 1e-9:
            common, i, j = common + 1, i + 1, j + 1
        elif first[i] < second[j]:
            i += 1
        else:
            j += 1
    return common / (len(first) + len(second) - common)


def av_align(clip: Clip) -> float | None:
    """AV-Align of a clip; None without sound, or where nothing sets in and nothing moves.

    Raises:
        ValueError: for sound of another rate than 16 kHz, or of another length than the picture.
    """
    if clip.waveform is None:
        return None
    waveform = require_sound(clip)
    peaks = flow_peaks(clip.frames, frames_per_second=clip.frames_per_second)
    return matched_share(onsets(waveform), peaks, tolerance=1 / clip.frames_per_second)


class AVAlign(ClipMetric):
    """`av_align`, averaged over clips."""

    names: ClassVar[tuple[str, ...]] = ("av_align",)

    def update(self, key: str, clip: Clip) -> None:
        """Measures a decoded clip and adds it."""
        self.record(key, {"av_align": av_align(clip)})


def _gray(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    scale = _LARGEST_SIDE / min(gray.shape)
    small = cv2.resize(gray, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else gray
    return np.asarray(small, dtype=np.uint8)


def _onset_strength(waveform: Tensor) -> Float[Tensor, " steps"]:
    """Mean rise of the mel bands' level from one step to the next, in dB."""
    window = torch.hann_window(_FFT_SIZE)
    spectrum = torch.stft(waveform.float(), _FFT_SIZE, _HOP, window=window, pad_mode="constant", return_complex=True)
    power = spectrum.abs().square().T @ mel_filters(_NUM_MELS, _FFT_SIZE // 2 + 1)
    level = 10 * power.clamp(min=1e-10).log10()
    level = level.clamp(min=float(level.max()) - _RANGE_DECIBELS)
    rise = (level[1:] - level[:-1]).clamp(min=0).mean(dim=1)
    return torch.cat((rise.new_zeros(1), rise))
