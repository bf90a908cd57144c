"""What is given stays, what is missing is filled in, and words of a whole file do not stick to a stretch of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hh_train.data.annotate import Annotator, Captioner, Transcriber, Transcription
from hh_train.data.selection.cuts import Shot
from hh_train.types import Clip, ClipMetadata, DialogueLine, Prompt

CLIP = Clip(
    frames=torch.arange(20, dtype=torch.uint8)[:, None, None, None].expand(20, 8, 8, 3).contiguous(),
    frames_per_second=10.0,
    waveform=torch.ones(3200),
    samples_per_second=1600,
)
BARE = ClipMetadata(key="a", prompt=Prompt(description=""))
TOLD = ClipMetadata(
    key="a",
    prompt=Prompt(
        description="A man speaks.",
        dialogue=(DialogueLine(speaker="Man", language="English", line="As given"),),
        background_sound="rain",
    ),
    transcript="As given",
    language="en",
    speaker="anna",
)


@dataclass
class Ear:
    """Hears what it is told to, and remembers what it was asked."""

    text: str = "guten Tag"
    asked: list[tuple[int, int, str | None]] = field(default_factory=list)

    def transcribe(self, waveform: Tensor, *, samples_per_second: int, language: str | None = None) -> Transcription:
        self.asked.append((waveform.shape[0], samples_per_second, language))
        return Transcription(text=self.text, language=(language or "de") if self.text else None)

    def settings(self) -> dict[str, Any]:
        return {"ear": self.text}


class Eye:
    """Says which frames it sees."""

    def caption(self, frames: Tensor) -> str:
        return f"frames {int(frames[0, 0, 0, 0])} to {int(frames[-1, 0, 0, 0])}"

    def settings(self) -> dict[str, Any]:
        return {"eye": 1}


def test_the_doubles_are_backends() -> None:
    assert isinstance(Ear(), Transcriber)
    assert isinstance(Eye(), Captioner)


def test_what_is_given_stays() -> None:
    ear = Ear()
    assert Annotator(transcriber=ear, captioner=Eye()).annotate(CLIP, TOLD) == TOLD
    assert ear.asked == []


def test_nothing_is_made_up_without_backends() -> None:
    assert Annotator().annotate(CLIP, BARE) == BARE
    assert Annotator().annotate(CLIP, TOLD) == TOLD


def test_missing_words_and_descriptions_are_filled_in() -> None:
    ear = Ear()
    found = Annotator(transcriber=ear, captioner=Eye()).annotate(CLIP, BARE)
    assert (found.transcript, found.language, found.speaker) == ("guten Tag", "de", None)
    assert found.prompt.compose() == 'frames 0 to 19\n\nDialogue:\n<Speaker, German>: "guten Tag"'
    assert ear.asked == [(3200, 1600, None)]


def test_a_known_language_and_speaker_are_used() -> None:
    ear = Ear()
    metadata = replace(
        BARE, prompt=Prompt(description="A room.", background_sound="wind"), language="yue", speaker="Li"
    )
    found = Annotator(transcriber=ear).annotate(CLIP, metadata)
    assert ear.asked[0][2] == "yue"
    assert found.prompt.dialogue == (DialogueLine(speaker="Li", language="Cantonese", line="guten Tag"),)
    assert found.prompt.background_sound == "wind"


def test_dialogue_that_is_given_without_transcript_is_not_written_over() -> None:
    metadata = replace(TOLD, transcript=None)
    found = Annotator(transcriber=Ear()).annotate(CLIP, metadata)
    assert found.prompt == TOLD.prompt
    assert found.transcript == "guten Tag"


def test_where_nobody_speaks_nothing_is_said() -> None:
    assert Annotator(transcriber=Ear(text="")).annotate(CLIP, BARE) == BARE


def test_clips_without_sound_are_not_heard() -> None:
    ear = Ear()
    assert Annotator(transcriber=ear).annotate(replace(CLIP, waveform=None), BARE) == BARE
    assert ear.asked == []


def test_a_stretch_of_a_file_loses_the_words_of_the_whole() -> None:
    found = Annotator().annotate(CLIP, TOLD, is_part=True)
    assert (found.transcript, found.prompt.dialogue) == (None, ())
    assert (found.prompt.description, found.prompt.background_sound) == ("A man speaks.", "rain")


def test_a_stretch_of_a_file_is_heard_and_described_anew() -> None:
    found = Annotator(transcriber=Ear(), captioner=Eye()).annotate(CLIP, TOLD, is_part=True)
    assert found.transcript == "guten Tag"
    assert found.language == "en"
    assert found.prompt.description == "frames 0 to 19"
    assert found.prompt.dialogue[0].speaker == "anna"


def test_each_shot_is_described() -> None:
    shots = (Shot(start_seconds=5.0, end_seconds=5.8), Shot(start_seconds=5.8, end_seconds=7.0))
    found = Annotator(captioner=Eye()).annotate(CLIP, BARE, start_seconds=5.0, shots=shots)
    assert found.prompt.description == "Shot 1: frames 0 to 7\nShot 2: frames 8 to 19"


def test_one_shot_is_described_without_a_number() -> None:
    found = Annotator(captioner=Eye()).annotate(CLIP, BARE, shots=(Shot(start_seconds=0.0, end_seconds=2.0),))
    assert found.prompt.description == "frames 0 to 19"


def test_settings_tell_backends_apart() -> None:
    assert Annotator().settings() == {"transcriber": None, "captioner": None, "speaker": "Speaker"}
    assert Annotator(transcriber=Ear()).settings()["transcriber"] == {"ear": "guten Tag"}


@pytest.mark.parametrize("language", ["zh", "yue", "en", "ja", "ko", "de", "fr"])
def test_every_language_has_its_name_in_prompts(language: str) -> None:
    metadata = replace(BARE, language=language)
    (line,) = Annotator(transcriber=Ear()).annotate(CLIP, metadata).prompt.dialogue
    assert line.language in ("Mandarin", "Cantonese", "English", "Japanese", "Korean", "German", "French")
