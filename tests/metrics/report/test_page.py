"""The page stands alone, says what it knows, and escapes what it is given."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from markupsafe import Markup

from hh_train.metrics.clip_metric import Score
from hh_train.metrics.comparison.bootstrap import Difference
from hh_train.metrics.measurement import ClipMeasurement, failed_measurement
from hh_train.metrics.report.page import (
    PromptReport,
    SystemReport,
    difference_rows,
    make_exhibit,
    render_report,
    table_rows,
    write_report,
)
from hh_train.types import Clip


def systems() -> list[SystemReport]:
    def score(mean: float, **counts: int) -> Score:
        return Score(mean=mean, low=mean / 2, high=mean * 2, **{"num_clips": 10, **counts})

    slices = {"error_rate/en digits": score(0.1), "error_rate/en sentences": score(0.3)}
    worse = Difference(mean=0.1, low=0.05, high=0.2, num_clips=9)
    unclear = Difference(mean=-0.01, low=-0.02, high=0.03, num_clips=9)
    return [
        SystemReport(name="real", folder="/real", num_clips=10, scores={"error_rate": score(0.02)}),
        SystemReport(name="teacher", folder="/teacher", num_clips=10, scores={"error_rate": score(0.1), **slices}),
        SystemReport(
            name="student<8>",
            folder="/student",
            num_clips=10,
            scores={"error_rate": score(0.2, num_failed=1), "flow": score(0.5, num_clips=8, num_undefined=1)},
            failures={"k": "broken & torn"},
            differences={"error_rate": worse, "flow": unclear},
        ),
    ]


def test_the_table_has_floor_slices_and_counts() -> None:
    rows = {row.measure.name: row.cells for row in table_rows(systems())}
    assert list(rows) == ["error_rate", "error_rate/en digits", "error_rate/en sentences", "flow"]
    floor, _, student = rows["error_rate"]
    assert floor and student
    assert (floor.value, floor.interval) == ("2.0", "1.0 to 4.0")
    assert student.clips is None  # all clips: an unreadable one counts as unsaid
    assert rows["flow"][0] is None
    assert rows["flow"][2] and rows["flow"][2].clips == "n = 8, 1 undefined"


def test_differences_are_signed_and_in_words() -> None:
    error, flow = difference_rows(systems(), "teacher")
    assert (error.value, error.interval, error.num_clips) == ("+10.0", "+5.0 to +20.0", 9)
    assert error.words == "student<8> is worse than teacher" and error.is_significant
    assert flow.words == "cannot tell apart at n = 9" and not flow.is_significant


def test_the_page_stands_alone(talking_clip: Callable[..., Clip], tmp_path: Path) -> None:
    measured = ClipMeasurement(key="k", heard="one <b>", values={"zero_lag_correlation": 0.5}, opening=(0.1, 0.4))
    exhibits = [
        make_exhibit("teacher", measured, talking_clip(num_frames=9), b"media"),
        make_exhibit("student<8>", failed_measurement("k", "broken & torn", "one", "en"), None, None),
    ]
    page = render_report(
        title="Evaluation",
        systems=systems(),
        base="teacher",
        prompts=[
            PromptReport(
                key="k", prompt='<S, English>: "one"', transcript="one", chosen="among the worst", exhibits=exhibits
            )
        ],
        curves={"pretrain": Markup("<svg><text>curve</text></svg>"), "distill": "no log in <folder>"},
        protocol={"fingerprint": "0123abcd"},
        notes=["Ten clips are few."],
    )
    write_report(tmp_path / "report.html", page)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert "&lt;S, English&gt;" in page and "heard: one &lt;b&gt;" in page and "student&lt;8&gt;" in page
    assert "<text>curve</text>" in page and "no log in &lt;folder&gt;" in page
    assert "broken &amp; torn" in page and "0123abcd" in page and "Ten clips are few." in page
    assert page.count("data:video/mp4;base64,bWVkaWE=") == 1
    assert not re.search(r'(src|href)="(?!data:)', page) and "http" not in page.replace("http://www.w3.org", "")
