"""What an evaluation leaves behind can be read again, and says what limits it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from hh_train.metrics.clip_metric import Row, Score
from hh_train.metrics.comparison.difference import Difference
from hh_train.metrics.comparison.protocol import EvaluationProtocol
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurement import ClipMeasurement
from hh_train.metrics.report.page import SystemReport
from hh_train.stages.evaluation_record import EvaluationRecord, evaluation_notes, print_evaluation, sampling_notes
from hh_train.stages.measuring import ScoredSystem
from hh_train.types import ClipMetadata, Prompt

WORDS = Measure(name="speech_wer", title="speech error", unit="%", scale=100.0, digits=1, better="lower")


def clip(key: str, errors: float, *, failure: str | None = None, language: str = "en") -> ClipMeasurement:
    return ClipMeasurement(
        key=key,
        failure=failure,
        values={"speech_wer": Row(errors, 4.0), "duration_difference": Row(0.5 if key == "c" else 0.0)},
        details={"heard": "one", "loudness": [1.0]},
        notes=("quiet",),
        speaker=f"speaker {key}",
        slices=(language,),
    )


def known(key: str, language: str = "en") -> ClipMetadata:
    return ClipMetadata(key=key, prompt=Prompt(description="A man."), transcript="one", language=language)


@pytest.fixture
def record() -> EvaluationRecord:
    score = Score(mean=0.25, low=0.1, high=0.4, num_clips=3)
    scored = [
        ScoredSystem(name="real", folder="/real", paths={k: Path(f"/real/{k}.mp4") for k in "abc"},
                     measurements=[clip(k, 0.0) for k in "abc"]),
        ScoredSystem(name="one", folder="/one", paths={k: Path(f"/one/{k}.mp4") for k in "abc"},
                     measurements=[clip("a", 1.0), clip("b", 4.0, failure="broken"), clip("c", 1.0)]),
        ScoredSystem(name="two", folder="/two", paths={k: Path(f"/two/{k}.mp4") for k in "ab"},
                     measurements=[clip(k, 2.0) for k in "ab"]),
    ]  # fmt: skip
    difference = Difference(mean=0.1, low=-0.1, high=0.3, num_clips=2, num_blocks=2, p_value=0.5, adjusted_p=0.5)
    reports = [
        SystemReport(name=s.name, folder=s.folder, scores={"speech_wer": score}, num_clips=len(s.measurements),
                     failures=s.failures, differences={"speech_wer": difference} if s.name == "two" else {})
        for s in scored
    ]  # fmt: skip
    return EvaluationRecord(
        scored=scored,
        reports=reports,
        measures=[WORDS],
        owners={"speech_wer": "speech"},
        base="one",
        protocol=EvaluationProtocol(shared={"clips": "3"}, measurers={"speech": {"recognizer": "abc"}}),
        notes=["Three clips are few."],
        truth={"a": known("a"), "b": known("b", "ja"), "c": None},
    )


def test_it_is_read_as_it_was_written(record: EvaluationRecord, tmp_path: Path) -> None:
    record.write(tmp_path)
    again = EvaluationRecord.load(tmp_path)
    assert [s.measurements for s in again.scored] == [s.measurements for s in record.scored]
    assert [s.paths for s in again.scored] == [s.paths for s in record.scored]
    assert [r.scores for r in again.reports] == [r.scores for r in record.reports]
    assert (again.measures, again.owners, again.protocol) == (record.measures, record.owners, record.protocol)
    assert (again.truth, again.base, again.notes) == (record.truth, record.base, record.notes)
    assert not list(tmp_path.glob(".*")), "nothing unfinished is left"


def test_tables_say_what_was_found(record: EvaluationRecord, tmp_path: Path) -> None:
    record.write(tmp_path)
    with (tmp_path / "clips.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    broken = next(row for row in rows if row["failure"])
    assert (broken["system"], broken["key"], float(broken["speech_wer"])) == ("one", "b", 1.0)
    assert rows[0]["heard"] == "one" and "loudness" not in rows[0], "curves are for clips.jsonl"
    with (tmp_path / "differences.csv").open() as file:
        (difference,) = csv.DictReader(file)
    assert (difference["system"], difference["base"], difference["is_significant"]) == ("two", "one", "False")
    fields = json.loads((tmp_path / "results.json").read_text())
    assert fields["protocol"]["fingerprint"] == record.protocol.fingerprint
    assert fields["systems"]["one"]["failures"] == {"b": "broken"}


def test_notes_say_what_limits_the_numbers(record: EvaluationRecord) -> None:
    notes = "\n".join(evaluation_notes(record.scored, record.reports, record.measures, record.truth, record.base))
    assert "different prompts: one has 3 clips, 1 of them not in all (such as c); two has 2 clips" in notes
    assert "1 of 3 clips of one could not be read" in notes
    assert "In 1 of 3 clips of one (such as c) the sound does not end with the picture" in notes
    assert "mishears 25.0% on the real clips (10.0% to 40.0%, n = 3)" in notes
    assert "1 clips have no transcript" in notes and "are counted in characters" in notes
    assert "There are 3 speakers, too few" in notes and "Below 100 clips" in notes and "training seed" in notes
    many = [clip(f"{i:03}", 0.0) for i in range(120)]
    assert "there are 120 speakers" in sampling_notes(many, 120)[0] and len(sampling_notes(many, 120)) == 2


def test_what_is_printed(record: EvaluationRecord, capsys: pytest.CaptureFixture[str]) -> None:
    print_evaluation(record)
    printed = capsys.readouterr().out
    assert "25.0 (10.0 to 40.0)" in printed and "unreadable one/b: broken" in printed
    assert "n = 2 is too few to tell anything apart" in printed and record.protocol.fingerprint in printed


def test_a_folder_without_results_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no evaluation"):
        EvaluationRecord.load(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    (tmp_path / "clips.jsonl").write_text("")
    with pytest.raises(ValueError, match="evaluate again"):
        EvaluationRecord.load(tmp_path)
