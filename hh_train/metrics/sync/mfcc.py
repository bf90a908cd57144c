"""Mel-frequency cepstra as SyncNet hears them: 13 coefficients, 100 a second.

The recipe is that of the package python_speech_features (whose defaults SyncNet was trained on), which differs from
other MFCCs in a number of ways: pre-emphasis 0.97, rectangular windows of 25 ms, mel triangles between whole bins of a
512-point spectrum, natural logarithms, an orthonormal cosine transform, a sine lifter of 22, and the log energy of the
window in place of coefficient zero.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.fft import dct
from torch import Tensor

from hh_train.metrics.sound.tracks import SAMPLES_PER_SECOND

NUM_COEFFICIENTS = 13
STEPS_PER_SECOND = 100
_WINDOW, _HOP, _FFT_SIZE, _NUM_MELS = 400, 160, 512, 26
_PRE_EMPHASIS, _LIFTER = 0.97, 22
_FULL_SCALE = 32768.0
_TINY = float(np.finfo(float).eps)


def mfcc(waveform: Float[Tensor, " S"]) -> Float[Tensor, "13 steps"]:
    """Cepstra of a mono waveform at 16 kHz, of 16-bit amplitudes: 1 + ceil((S - 400) / 160) steps, the last one padded.

    Raises:
        ValueError: for an empty waveform.
    """
    if not waveform.numel():
        raise ValueError("got a waveform of no samples; wanted sound to take cepstra of")
    sound = np.clip(np.round(waveform.detach().cpu().double().numpy() * _FULL_SCALE), -_FULL_SCALE, _FULL_SCALE - 1)
    emphasized = np.append(sound[0], sound[1:] - _PRE_EMPHASIS * sound[:-1])
    count = 1 + max(0, math.ceil((len(sound) - _WINDOW) / _HOP))
    padded = np.pad(emphasized, (0, max(0, (count - 1) * _HOP + _WINDOW - len(sound))))
    windows = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP][:count]
    power = np.abs(np.fft.rfft(windows, _FFT_SIZE)) ** 2 / _FFT_SIZE
    energy = power.sum(axis=1)
    bands = power @ _triangles().T
    cepstra = dct(np.log(np.where(bands == 0, _TINY, bands)), type=2, axis=1, norm="ortho")[:, :NUM_COEFFICIENTS]
    cepstra = cepstra * (1 + _LIFTER / 2 * np.sin(np.pi * np.arange(NUM_COEFFICIENTS) / _LIFTER))
    cepstra[:, 0] = np.log(np.where(energy == 0, _TINY, energy))
    return torch.from_numpy(np.ascontiguousarray(cepstra.T)).float()


@cache
def _triangles() -> NDArray[np.float64]:
    """[mels, bins]: triangles between neighboring mel points, which are moved down to whole bins."""
    top_mel = 2595 * math.log10(1 + SAMPLES_PER_SECOND / 2 / 700)
    edges_hz = 700 * (10 ** (np.linspace(0, top_mel, _NUM_MELS + 2) / 2595) - 1)
    edges = np.floor((_FFT_SIZE + 1) * edges_hz / SAMPLES_PER_SECOND)[:, None]
    bins = np.arange(_FFT_SIZE // 2 + 1)[None]
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    rising = np.where((bins >= low) & (bins < middle), (bins - low) / (middle - low), 0.0)
    falling = np.where((bins >= middle) & (bins < high), (high - bins) / (high - middle), 0.0)
    return rising + falling
