"""Gentle head motion and blinking over the frames of a clip."""

from __future__ import annotations

import numpy as np
from brush import Pose
from numpy.typing import NDArray

_BLINK_SECONDS = 0.2
_SECONDS_BETWEEN_BLINKS = 2.2


def draw_poses(random: np.random.Generator, times: NDArray[np.float64], *, head_motion: float = 1.0) -> list[Pose]:
    """One pose per time in seconds: slow sums of sines, `head_motion` times the usual size, and random blinks."""
    x, y, roll, turn, nod, brows = (
        _sway(random, times, head_motion * amplitude) for amplitude in (0.045, 0.035, 0.05, 0.09, 0.06, 0.9)
    )
    blinks = _blinks(random, times)
    return [
        Pose(shift=(dx, dy), roll=angle, turn=aside, nod=down, blink=blink, brows=raised)
        for dx, dy, angle, aside, down, blink, raised in np.stack([x, y, roll, turn, nod, blinks, brows], 1).tolist()
    ]


def _sway(random: np.random.Generator, times: NDArray[np.float64], amplitude: float) -> NDArray[np.float64]:
    total = np.zeros_like(times)
    for share in (0.65, 0.35):
        frequency, phase = random.uniform(0.2, 0.75), random.uniform(0, 2 * np.pi)
        total += share * np.sin(2 * np.pi * frequency * times + phase)
    return amplitude * total


def _blinks(random: np.random.Generator, times: NDArray[np.float64]) -> NDArray[np.float64]:
    closed = np.zeros_like(times)
    moment = random.uniform(0, _SECONDS_BETWEEN_BLINKS)
    while moment < times[-1]:
        distance = np.abs(times - moment) / (_BLINK_SECONDS / 2)
        closed = np.maximum(closed, np.clip(1.4 * (1 - distance), 0, 1))
        moment += random.uniform(0.6, 1.4) * _SECONDS_BETWEEN_BLINKS
    return closed
