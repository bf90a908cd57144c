"""Gains that make sounds equally loud."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from hh_train.metrics.sound.statistics import integrated_loudness

TARGET_LUFS = -23.0
"""The level of broadcasts (EBU R 128)."""
PEAK = 0.9
"""What no sample passes, so that coding has room."""
_SHORTEST_SECONDS = 1.0


def heard_loudness(waveform: Float[Tensor, " S"], samples_per_second: int) -> float | None:
    """In LUFS (ITU-R BS.1770); None for silence. A sound shorter than a second is measured as if it went on and on."""
    if not bool(waveform.any()):
        return None
    repeats = math.ceil(_SHORTEST_SECONDS * samples_per_second / waveform.numel())
    return integrated_loudness(waveform.repeat(repeats), samples_per_second=samples_per_second)


def equal_gains(waveforms: Sequence[Float[Tensor, " _"] | None], samples_per_second: int) -> list[float]:
    """Factors after which all sounds are equally loud and none passes `PEAK`: at `TARGET_LUFS`, or at the loudest
    level below that they can all reach. Silence stays as it is.
    """
    measured = [None if w is None else heard_loudness(w, samples_per_second) for w in waveforms]
    reachable = [
        loudness + 20 * math.log10(PEAK / float(waveform.abs().max()))
        for loudness, waveform in zip(measured, waveforms, strict=True)
        if loudness is not None and waveform is not None
    ]
    target = min([TARGET_LUFS, *reachable])
    return [1.0 if loudness is None else 10 ** ((target - loudness) / 20) for loudness in measured]
