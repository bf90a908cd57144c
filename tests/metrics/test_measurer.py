"""A sample's face, mouth and words are looked for once, however many measurers ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch

from hh_train.metrics.faces.cascade import CascadeFaces
from hh_train.metrics.faces.track import FaceTrack, NoFaceError
from hh_train.metrics.measurer import Sample
from hh_train.types import Clip


@dataclass
class CountingFaces:
    """Finds what the cascades find, and counts how often it is asked."""

    asked: int = 0
    finder: CascadeFaces = field(default_factory=CascadeFaces)

    def find(self, frames: torch.Tensor) -> FaceTrack | None:
        self.asked += 1
        return self.finder.find(frames)

    def fingerprint(self) -> str:
        return "counting"


@dataclass
class CountingRecognizer:
    """Hears how long the sound is."""

    languages: Sequence[str] = ("en",)
    asked: int = 0

    def transcribe(self, waveform: torch.Tensor, language: str) -> str:
        self.asked += 1
        return f"{language} {waveform.shape[0]}"

    def fingerprint(self) -> str:
        return "counting"


def test_the_face_is_found_once(talking_clip: Callable[..., Clip]) -> None:
    faces = CountingFaces()
    sample = Sample(key="a", clip=talking_clip(num_frames=25), transcript=None, language=None, faces=faces)
    assert sample.found_face is sample.face and sample.face.coverage == 1.0
    assert sample.mouth is sample.mouth and sample.mouth.opening.shape == (25,)
    assert sample.crops().shape == (25, 48, 48) and sample.crops(96).shape == (25, 96, 96)
    assert faces.asked == 1


def test_no_face_is_said_every_time_and_looked_for_once(talking_clip: Callable[..., Clip]) -> None:
    faces = CountingFaces()
    clip = talking_clip(num_frames=25)
    clip = replace(clip, frames=torch.full_like(clip.frames, 90))
    sample = Sample(key="a", clip=clip, transcript=None, language=None, faces=faces)
    assert sample.found_face is None
    for _ in range(2):
        with pytest.raises(NoFaceError, match="no face was found"):
            _ = sample.mouth
        with pytest.raises(ValueError, match="no face was found"):
            sample.crops()
    assert faces.asked == 1


def test_words_are_heard_once_a_recognizer(talking_clip: Callable[..., Clip]) -> None:
    sample = Sample(key="a", clip=talking_clip(num_frames=25), transcript=None, language="en")
    first, second = CountingRecognizer(), CountingRecognizer()
    assert [sample.heard(recognizer) for recognizer in (first, first, second)] == ["en 16000"] * 3
    assert (first.asked, second.asked) == (1, 1)
    mute = replace(sample.clip, waveform=None)
    with pytest.raises(ValueError, match="has no sound track"):
        Sample(key="a", clip=mute, transcript=None, language="en").heard(first)
    with pytest.raises(ValueError, match="has no known language"):
        Sample(key="a", clip=sample.clip, transcript=None, language=None).heard(first)
