"""Long sound is cut in its pauses, and nothing of it is lost."""

from __future__ import annotations

import pytest
import torch

from hh_train.metrics.speech.pieces import split_at_pauses


@pytest.mark.parametrize("seconds", [0.0, 1.0, 2.0, 2.5, 7.3])
def test_pieces_make_up_the_whole(seconds: float) -> None:
    waveform = torch.randn(round(seconds * 16_000), generator=torch.Generator().manual_seed(0))
    pieces = split_at_pauses(waveform, longest_seconds=2.0)
    assert torch.equal(torch.cat(pieces), waveform)
    assert all(piece.shape[0] <= 32_000 for piece in pieces)
    assert len(pieces) == 1 if seconds <= 2 else len(pieces) >= seconds / 2


def test_the_cut_lies_in_the_pause() -> None:
    waveform = torch.ones(48_000)
    waveform[27_000:30_500] = 0.01
    first, second = split_at_pauses(waveform, longest_seconds=2.0)
    assert 27_000 < first.shape[0] < 30_500
    assert first.shape[0] + second.shape[0] == 48_000
