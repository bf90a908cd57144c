"""What W&B is given is what the files hold."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb

from hh_train.metrics.clip_metric import Row, Score
from hh_train.metrics.comparison.difference import Difference
from hh_train.metrics.comparison.protocol import EvaluationProtocol
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurement import ClipMeasurement
from hh_train.metrics.report.page import SystemReport
from hh_train.stages.evaluation_record import EvaluationRecord
from hh_train.stages.measuring import ScoredSystem
from hh_train.stages.wandb_table import WandbTable


def record() -> EvaluationRecord:
    def system(name: str, value: float) -> ScoredSystem:
        clip = ClipMeasurement(key="a", values={"light": Row(value)}, details={"heard": "one"})
        return ScoredSystem(name=name, folder=name, paths={"a": Path("a.mp4")}, measurements=[clip])

    def report(name: str, value: float, **more: Any) -> SystemReport:
        score = Score(mean=value, low=value, high=value, num_clips=1)
        return SystemReport(name=name, folder=name, scores={"light": score}, num_clips=1, **more)

    difference = Difference(mean=0.5, low=0.4, high=0.6, num_clips=1, p_value=0.5)
    return EvaluationRecord(
        scored=[system("real", 1.0), system("one", 2.0), system("two", 2.5)],
        reports=[report("real", 1.0), report("one", 2.0), report("two", 2.5, differences={"light": difference})],
        measures=[Measure(name="light", title="light")],
        owners={"light": "pictures"},
        base="one",
        protocol=EvaluationProtocol(shared={"clips": "1"}, measurers={"pictures": {}}),
        notes=[],
        truth={},
    )


class Run:
    """Keeps what it is given."""

    def __init__(self, **settings: Any) -> None:
        self.settings, self.logged, self.summary = settings, {}, {}

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def log(self, values: dict[str, Any]) -> None:
        self.logged |= values


def test_tables_report_and_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Run] = []
    monkeypatch.setattr(wandb, "init", lambda **settings: runs.append(Run(**settings)) or runs[-1])
    monkeypatch.setattr(wandb, "Table", lambda *, columns, data: SimpleNamespace(columns=columns, data=data))
    monkeypatch.setattr(wandb, "Html", lambda text, *, inject: text)
    page = tmp_path / "report.html"
    page.write_text("<p>scores</p>")
    WandbTable(project="lab", name="night").log(record(), page)
    (run,) = runs
    assert (run.settings["project"], run.settings["name"], run.settings["mode"]) == ("lab", "night", "offline")
    assert run.settings["config"]["protocol"]["shared"] == {"clips": "1"}
    scores, clips = run.logged["scores"], run.logged["clips"]
    assert [row[scores.columns.index("mean")] for row in scores.data] == [1.0, 2.0, 2.5]
    assert [row[clips.columns.index("light")] for row in clips.data] == [1.0, 2.0, 2.5]
    assert clips.data[0][clips.columns.index("heard")] == "one"
    (difference,) = run.logged["differences"].data
    assert difference[:2] == ["two", "one"] and run.logged["report"] == "<p>scores</p>"
    assert run.summary == {"real/light": 1.0, "one/light": 2.0, "two/light": 2.5}
    WandbTable(offline=False).log(record(), page)
    assert runs[1].settings["mode"] is None, "WANDB_MODE decides"
