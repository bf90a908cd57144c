"""Words that are heard in generated clips."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hh_train.training.heard import word_errors
from hh_train.types import Clip, ClipMetadata, Prompt


def about(transcript: str | None, language: str | None = "en") -> ClipMetadata:
    return ClipMetadata(key="", prompt=Prompt(description=""), transcript=transcript, language=language)


def clip(*, with_sound: bool = True) -> Clip:
    frames = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    waveform = torch.ones(100) if with_sound else None
    return Clip(frames=frames, frames_per_second=25.0, waveform=waveform, samples_per_second=16_000)


def test_errors_are_of_all_words_together(hearing: Callable[..., Any]) -> None:
    """One of two words, none of four, and clips that cannot be judged."""
    metadata = [about("one two"), about("one two three four"), about(None), about("x", "ja")]
    assert word_errors(hearing("one too", "one two three four"), [clip()] * 4, metadata) == pytest.approx(1 / 6)
    assert word_errors(hearing(), [clip(with_sound=False)], metadata[:1]) is None
