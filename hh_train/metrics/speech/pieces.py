"""Long sound in pieces that a model can hear at once, cut where nobody speaks."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from hh_train.metrics.speech.backend import SAMPLES_PER_SECOND

_PAUSE_SECONDS = 0.2


def split_at_pauses(waveform: Float[Tensor, " S"], *, longest_seconds: float = 30.0) -> list[Tensor]:
    """Pieces of at most `longest_seconds` that make up the waveform.

    Each is cut in the middle of the quietest fifth of a second of its last third.

    Args:
        waveform: mono, 16 kHz.
    """
    longest = round(longest_seconds * SAMPLES_PER_SECOND)
    pieces = []
    while waveform.shape[0] > longest:
        cut = _quietest(waveform[longest * 2 // 3 : longest]) + longest * 2 // 3
        pieces.append(waveform[:cut])
        waveform = waveform[cut:]
    return [*pieces, waveform]


def _quietest(waveform: Tensor) -> int:
    """The sample in the middle of the quietest pause."""
    width = min(round(_PAUSE_SECONDS * SAMPLES_PER_SECOND), waveform.shape[0])
    energy = torch.cat((torch.zeros(1, dtype=torch.float64), waveform.double().square().cumsum(0)))
    return int((energy[width:] - energy[:-width]).argmin()) + width // 2
