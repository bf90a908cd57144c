"""One clip through measurers, and the log that spares a second run the work."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch

from hh_train.metrics.clip_metric import Row
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurement import (
    ClipMeasurement,
    MeasurementLog,
    Part,
    all_measures,
    join_parts,
    measure_part,
    unread_part,
)
from hh_train.metrics.measurer import Measured, Sample
from hh_train.types import Clip


class Words:
    """Counts words of the transcript; a clip that was not read has said none."""

    measures: Sequence[Measure] = (Measure(name="missing", title="missing"), Measure(name="level", title="level"))

    def protocol(self) -> Mapping[str, str]:
        return {}

    def measure(self, sample: Sample) -> Measured:
        if sample.transcript is None:
            raise ValueError("it has no transcript")
        assert sample.clip.waveform is not None
        return Measured(
            values={"missing": Row(0.0, float(len(sample.transcript.split()))), "level": float("nan")},
            notes=["quiet", "quiet"],
            details={"heard": sample.transcript},
            features={"sound": sample.clip.waveform[:6].reshape(2, 3)},
        )

    def measure_unread(self, *, transcript: str | None, language: str | None) -> Mapping[str, Row | float | None]:
        count = float(len((transcript or "").split()))
        return {"missing": Row(count, count)} if count else {}


class Frames:
    measures: Sequence[Measure] = (Measure(name="frames", title="frames"),)

    def protocol(self) -> Mapping[str, str]:
        return {}

    def measure(self, sample: Sample) -> Measured:
        return Measured(values={"frames": float(sample.clip.frames.shape[0])})


def sample_of(clip: Clip, transcript: str | None = "one two") -> Sample:
    return Sample(key="a", clip=clip, transcript=transcript, language="en")


def test_measurers_add_up_to_a_measurement_that_survives_json(talking_clip: Callable[..., Clip]) -> None:
    clip = talking_clip(num_frames=9)
    parts = [measure_part(measurer, sample_of(clip)) for measurer in (Words(), Frames())]
    found = join_parts("a", parts, speaker="Ann", slices=("en",))
    assert found.values == {"missing": Row(0.0, 2.0), "level": None, "frames": Row(9.0)}
    assert (found.value("missing"), found.value("level"), found.value("frames"), found.value("no")) == (
        0,
        None,
        9,
        None,
    )
    assert (found.notes, found.details, found.speaker) == (("quiet",), {"heard": "one two"}, "Ann")
    assert ClipMeasurement.from_json(json.loads(json.dumps(found.to_json()))) == found
    again = Part.from_json(json.loads(json.dumps(parts[0].to_json())))
    assert again == parts[0]
    assert torch.equal(again.features["sound"], clip.waveform[:6].reshape(2, 3))


def test_a_fault_of_the_clip_is_a_note_and_its_values_are_undefined(talking_clip: Callable[..., Clip]) -> None:
    part = measure_part(Words(), sample_of(talking_clip(num_frames=9), None))
    assert part == Part(values={"missing": None, "level": None}, notes=("it has no transcript",))


def test_a_clip_that_was_not_read_counts_where_that_means_something() -> None:
    said = {"transcript": "one two", "language": "en"}
    parts = [unread_part(measurer, "broken", **said) for measurer in (Words(), Frames())]
    found = join_parts("a", parts)
    assert (found.failure, found.values) == ("broken", {"missing": Row(2.0, 2.0)})
    assert unread_part(Words(), "broken", transcript=None, language=None).values == {}


def test_a_value_that_is_no_measure_is_a_defect(talking_clip: Callable[..., Clip]) -> None:
    class Odd(Frames):
        measures = (Measure(name="something else", title="something else"),)

    with pytest.raises(RuntimeError, match=r"Odd has values \['frames'\]"):
        measure_part(Odd(), sample_of(talking_clip(num_frames=9)))


def test_names_are_unique_over_the_measurers() -> None:
    assert [m.name for m in all_measures({"words": Words(), "frames": Frames()})] == ["missing", "level", "frames"]
    with pytest.raises(ValueError, match="'frames' comes from 'one' and from 'two'"):
        all_measures({"one": Frames(), "two": Frames()})


def test_the_log_keeps_what_is_current_and_passes_over_what_is_torn(tmp_path: Path) -> None:
    log = MeasurementLog(folder=tmp_path / "logs", system="s")
    old = Part(values={"x": Row(1.0)})
    log.add("a", "words", "stamp 1", old)
    with log.path.open("a") as file:
        file.write('{"key": "torn", "measurer": "words", "stamp": "stamp 1", "part": {"val')
    again = MeasurementLog(folder=tmp_path / "logs", system="s")
    assert again.get("a", "words", "stamp 1") == old
    assert again.get("a", "words", "stamp 2") is None and again.get("a", "frames", "stamp 1") is None
    assert again.get("torn", "words", "stamp 1") is None
    new = Part(values={"x": None}, notes=("new",))
    again.add("b", "words", "stamp 1", new)
    last = MeasurementLog(folder=tmp_path / "logs", system="s")
    assert (last.get("b", "words", "stamp 1"), last.get("a", "words", "stamp 1")) == (new, old)


def test_processes_write_apart_and_read_together(tmp_path: Path) -> None:
    first = MeasurementLog(folder=tmp_path, system="s[1]")
    second = MeasurementLog(folder=tmp_path, system="s[1]", process=1)
    first.add("a", "words", "old", Part(values={"x": Row(1.0)}))
    second.add("a", "words", "stamp", Part(values={"x": Row(2.0)}))
    second.add("b", "words", "stamp", Part(values={"x": Row(3.0)}))
    assert len(list(tmp_path.iterdir())) == 2 and first.get("b", "words", "stamp") is None
    first.read()
    found = [first.get(key, "words", "stamp") for key in "ab"]
    assert [part.values["x"] for part in found if part] == [Row(2.0), Row(3.0)]
    assert MeasurementLog(folder=tmp_path, system="s").get("b", "words", "stamp") is None
