"""One clip through every measure, and the log that spares a second run the work."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hh_train.metrics.measurement import ClipMeasurement, MeasurementLog, failed_measurement, measure_clip
from hh_train.metrics.speech.recognizer import Recognizer, RecognizerConfig, build_vocabulary
from hh_train.types import Clip


class Oracle(Recognizer):
    """Hears what it is told to."""

    def __init__(self, says: str) -> None:
        characters, languages = build_vocabulary([("one two", "en")])
        super().__init__(config=RecognizerConfig(characters=characters, languages=languages, width=8, num_blocks=1))
        self.says = says

    def transcribe(self, waveform: torch.Tensor, language: str | None = None) -> str:
        self._unit_mask(language)
        return self.says


FIELDS = {
    "generation": {"seconds": 1.5, "num_function_evaluations": 8},
    "latent_statistics": {"video": {"mean": 0.0, "std": 1.25}},
}


def test_everything_is_measured_and_survives_json(talking_clip: Callable[..., Clip]) -> None:
    found = measure_clip(
        "a", talking_clip(), transcript="one two two", language="en", fields=FIELDS, recognizer=Oracle("one two")
    )
    assert found.errors is not None and (found.errors.deletions, found.errors.total) == (1, 1)
    assert found.values["seconds"] == 1.5 and found.values["video_latent_std"] == 1.25
    assert found.values["within_one_frame"] == 1.0
    undefined = {name for name, value in found.values.items() if value is None}
    assert undefined == {"audio_latent_mean", "audio_latent_std"}
    assert (len(found.opening), len(found.loudness), found.notes) == (49, 49 * 4, ())
    assert ClipMeasurement.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_what_cannot_be_measured_is_none_and_says_why(talking_clip: Callable[..., Clip]) -> None:
    silent = replace(talking_clip(mouth="still"), waveform=None)
    found = measure_clip("a", silent, transcript="one", language="en", fields={}, recognizer=Oracle("one"))
    assert found.heard == "" and found.errors is not None and found.errors.deletions == 1
    assert found.values["zero_lag_correlation"] is None and found.values["loudness_db"] is None
    assert "it has no sound track" in found.notes
    unknown = measure_clip("a", silent, transcript=None, language=None, fields={}, recognizer=Oracle("one"))
    assert unknown.errors is None and "it has no transcript" in unknown.notes
    french = measure_clip("a", talking_clip(), transcript="un", language="fr", fields={}, recognizer=Oracle("one"))
    assert french.errors is None and any("was not trained on 'fr'" in note for note in french.notes)


def test_an_unreadable_clip_says_nothing() -> None:
    failed = failed_measurement("a", "broken", "one two", "en")
    assert failed.errors is not None and failed.errors.deletions == failed.errors.total == 2
    assert failed_measurement("a", "broken", None, None).errors is None


def test_another_sample_rate_is_refused(talking_clip: Callable[..., Clip]) -> None:
    clip = replace(talking_clip(), samples_per_second=44_100)
    with pytest.raises(ValueError, match="got sound at 44100 Hz"):
        measure_clip("a", clip, transcript=None, language=None, fields={}, recognizer=Oracle(""))


def test_the_log_keeps_what_is_current_and_passes_over_what_is_torn(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "system.jsonl"
    log = MeasurementLog(path=path)
    first, second = failed_measurement("a", "old", "one", "en"), failed_measurement("b", "new", "one two", "en")
    log.add(first, "stamp 1")
    with path.open("a") as file:
        file.write('{"stamp": "stamp 1", "measurement": {"key": "torn", "fail')
    again = MeasurementLog(path=path)
    assert again.get("a", "stamp 1") == first
    assert again.get("a", "stamp 2") is None and again.get("torn", "stamp 1") is None
    again.add(second, "stamp 1")
    again.add(replace(first, failure="newer"), "stamp 2")
    last = MeasurementLog(path=path)
    assert last.get("b", "stamp 1") == second
    assert last.get("a", "stamp 1") is None
    found = last.get("a", "stamp 2")
    assert found is not None and found.failure == "newer"
