"""The files of an ablation: every number of the table is there, failed rows too, and names cannot break the page."""

from __future__ import annotations

import json

import pytest

from hh_train.metrics.clip_metric import Score
from hh_train.metrics.comparison.difference import Difference
from hh_train.metrics.comparison.pooled import PooledDifference, PooledScore
from hh_train.metrics.measure import Measure
from hh_train.metrics.report.ablation import (
    AblationReport,
    RowReport,
    RunLine,
    Verdict,
    difference_plot,
    render_ablation,
    render_markdown,
    score_plot,
)

WER = Measure(name="wer", title="speech error", unit="%", scale=100.0, digits=1, better="lower")
LEVEL = Measure(name="level", title="sound level", digits=1)


def line(seed: int, **changed: object) -> RunLine:
    known = {"flops": 2e12, "seconds": 3600.0, "device_hours": 2.0, "accelerator": "gpu", "command": f"train {seed}"}
    return RunLine(folder=f"runs/{seed}", seed=seed, student_steps=20, critic_steps=100, **(known | changed))


def difference(mean: float, low: float, high: float) -> PooledDifference:
    found = Difference(mean=mean, low=low, high=high, num_clips=8, num_blocks=8, p_value=0.01 if low > 0 else 0.5)
    return PooledDifference(difference=found, by_seed={0: mean - 0.01, 1: mean + 0.01})


@pytest.fixture
def report() -> AblationReport:
    score = PooledScore(score=Score(mean=0.2, low=0.1, high=0.3, num_clips=8), by_seed={0: 0.15, 1: 0.25})
    worse = PooledScore(score=Score(mean=0.5, low=0.4, high=0.6, num_clips=8), by_seed={0: 0.5, 1: 0.5})
    rows = [
        RowReport(name="full", runs=[line(0), line(1, flops=4e12)], scores={"wer": score}),
        RowReport(
            name="<no|gan>",
            runs=[line(0), line(1)],
            scores={"wer": worse, "level": score},
            differences={"wer": difference(0.3, 0.2, 0.4), "level": difference(0.0, -0.1, 0.1)},
        ),
        RowReport(
            name="broken",
            runs=[line(0, trouble="stopped | early", is_scored=False)],
            remark="no run of this row has a student",
        ),
        RowReport(name="teacher", folder="clips/teacher", scores={"wer": score}),
    ]
    verdict = Verdict(
        finding="FID 1 against 2", source="a paper, table 3", row="<no|gan>", against="full", measure="FVD",
        expected="worse", observed="+1.0 (+0.5 to +1.5)", verdict="agree",
    )  # fmt: skip
    return AblationReport(
        title="Ablation",
        command="hh-train evaluate ablation runs",
        base="full",
        real={"wer": Score(mean=0.05, low=0.0, high=0.1, num_clips=4)},
        rows=rows,
        measures=(WER, LEVEL),
        columns=(WER, LEVEL),
        verdicts=[verdict],
        notes=["Mind the gap."],
    )


def test_the_overview_has_counters_cost_and_scores(report: AblationReport) -> None:
    heading, rows = report.overview()
    assert all(len(row) == len(heading) for row in rows)
    table = {row[0]: dict(zip(heading, row, strict=True)) for row in rows}
    full = table["full (base)"]
    assert (full["seeds"], full["student steps"], full["critic steps"]) == ("0, 1", "20", "100")
    assert (full["training FLOPs"], full["device hours"], full["state"]) == ("3e+12", "2", "done")
    assert full["speech error, % ↓"] == "20.0 (10.0 to 30.0; seeds ±7.1)" and full["sound level"] == "–"
    assert table["real clips"]["speech error, % ↓"] == "5.0 (0.0 to 10.0)"
    assert table["broken"]["state"] == "seed 0: stopped | early" and table["broken"]["seeds"] == "–"
    assert table["teacher"]["state"] == "clips" and table["teacher"]["training FLOPs"] == "–"


def test_differences_are_said_in_words(report: AblationReport) -> None:
    _, rows = report.compared()
    assert [row[-1] for row in rows] == ["<no|gan> is worse than full", "cannot tell apart at n = 8"]
    assert rows[0][2:5] == ["+30.0", "+20.0 to +40.0", "+29.0, +31.0"]


def test_markdown_has_every_table_and_stays_in_its_columns(report: AblationReport) -> None:
    text = render_markdown(report)
    tables = [line for line in text.splitlines() if line.startswith("|")]
    widths = [line.replace("\\|", "").count("|") - 1 for line in tables]
    assert widths == [10] * 7 + [8] * 4 + [7] * 3
    assert "- broken, seed 0: stopped | early" in text and "- Mind the gap." in text and "    train 1" in text


def test_the_page_needs_nothing_else_and_escapes_names(report: AblationReport) -> None:
    page = render_ablation(report)
    assert page.count("<svg") == 2 and "&lt;no|gan&gt;" in page and "<no|gan>" not in page
    assert 'class="agree"' in page and "no run of this row has a student" in page
    assert "src=" not in page and "href=\"http" not in page  # fmt: skip


def test_csv_and_json_hold_the_numbers(report: AblationReport) -> None:
    lines = report.flat()
    assert [(cell["row"], cell.get("measure")) for cell in lines] == [
        ("full", "wer"), ("<no|gan>", "wer"), ("<no|gan>", "level"), ("broken", None), ("teacher", "wer"),
    ]  # fmt: skip
    assert lines[1]["difference_high"] == 0.4 and lines[1]["difference_by_seed"] == "0:0.29 1:0.31"
    assert lines[3]["remark"] == "no run of this row has a student"
    stored = json.loads(json.dumps(report.to_json()))
    row = stored["rows"]["<no|gan>"]
    assert row["differences"]["wer"]["words"] == "<no|gan> is worse than full"
    assert row["runs"][1]["student_steps"] == 20 and stored["published"][0]["verdict"] == "agree"


def test_plots_show_each_row_where_it_has_something(report: AblationReport) -> None:
    scores, differences = score_plot(report), difference_plot(report)
    assert scores is not None and differences is not None
    assert "teacher" in scores and "broken" not in scores
    assert "teacher" not in differences and "speech error" in differences
    nothing = AblationReport(**{**vars(report), "rows": report.rows[2:3]})
    assert score_plot(nothing) is None and difference_plot(nothing) is None
    assert "Nothing can be compared." in render_ablation(nothing)
