"""One clip, measured: on encoded files, with a face and without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hh_train.data.media.files import MediaReader, write_clip
from hh_train.metrics.clip_metric import Row
from hh_train.metrics.lips.measurer import LipMeasurer
from hh_train.metrics.measurer import Measured, Measurer, Sample
from hh_train.types import Clip


@pytest.fixture
def sample(talking_clip: Callable[..., Clip], tmp_path: Path) -> Callable[..., Sample]:
    """Of an encoded clip; `wall` shows no face."""

    def make(*, wall: bool = False, transcript: str | None = "one two", language: str | None = "en") -> Sample:
        clip = talking_clip()
        if wall:
            clip = replace(clip, frames=torch.full_like(clip.frames, 90))
        write_clip(tmp_path / "clip.mp4", clip)
        read = MediaReader().read(tmp_path / "clip.mp4")
        return Sample(key="clip", clip=read, transcript=transcript, language=language)

    return make


def ratios(measured: Measured) -> dict[str, float | None]:
    return {
        name: value.numerator / value.denominator if isinstance(value, Row) else value
        for name, value in measured.values.items()
    }


def test_lips_against_transcript_and_sound(sample: Callable[..., Sample], told: Callable[..., object]) -> None:
    reader, recognizer = told("one six"), told("One six.")
    measurer = LipMeasurer(reader=reader, recognizer=recognizer)
    of = sample()
    measured = measurer.measure(of)
    values = ratios(measured)
    assert (values["face_coverage"], values["lipread_wer"], values["av_wer"]) == (1.0, 0.5, 0.0)
    assert measured.details == {"lips_read": "one six"}
    assert set(values) == {measure.name for measure in measurer.measures}
    assert of.heard(recognizer) == "One six." and recognizer.asked == 1
    assert isinstance(measurer, Measurer)


def test_no_face_is_no_gain(sample: Callable[..., Sample], told: Callable[..., object]) -> None:
    reader = told("one two")
    measured = LipMeasurer(reader=reader, recognizer=told("one two")).measure(sample(wall=True))
    values = ratios(measured)
    assert (values["face_coverage"], values["lipread_wer"], values["av_wer"]) == (0.0, 1.0, 1.0)
    assert values["lip_leak"] is None and reader.asked == 0
    assert "no face was found in the clip" in measured.notes


def test_without_a_transcript_the_sound_is_the_reference(
    sample: Callable[..., Sample], told: Callable[..., object]
) -> None:
    measured = LipMeasurer(reader=told("one"), recognizer=told("two")).measure(sample(transcript=None))
    values = ratios(measured)
    assert values["lipread_wer"] is None and values["av_wer"] == 1.0
    assert any("no transcript" in note for note in measured.notes)
    measured = LipMeasurer(reader=told("one")).measure(sample(language=None))
    assert set(measured.values) == {"face_coverage", "lip_leak"}
    assert any("language" in note for note in measured.notes)


def test_without_networks_and_beside_a_floor(sample: Callable[..., Sample], told: Callable[..., object]) -> None:
    plain = LipMeasurer()
    assert [measure.name for measure in plain.measures] == ["face_coverage", "lip_leak"]
    assert set(plain.measure(sample()).values) == {"face_coverage", "lip_leak"}
    reader = told("one")
    reader.floor = 0.123  # type: ignore[attr-defined]
    titles = {measure.name: measure.title for measure in LipMeasurer(reader=reader).measures}
    assert titles["lipread_wer"] == "lip-reading error (real held-out clips: 12.3)" and "av_wer" not in titles
    assert plain.protocol() != LipMeasurer(reader=reader).protocol()


def test_a_clip_that_cannot_be_read(told: Callable[..., object]) -> None:
    unread = LipMeasurer(reader=told("one")).measure_unread(transcript="one two", language="en")
    assert unread["face_coverage"] == 0.0 and unread["lipread_wer"] == Row(2.0, 2.0) and "av_wer" not in unread
    assert LipMeasurer().measure_unread(transcript="one", language="en") == {"face_coverage": 0.0}


def test_another_sample_rate_is_refused(talking_clip: Callable[..., Clip]) -> None:
    clip = replace(talking_clip(), samples_per_second=44_100)
    with pytest.raises(ValueError, match="44100 Hz; read the clip at 16000 Hz"):
        LipMeasurer().measure(Sample(key="clip", clip=clip, transcript=None, language=None))
