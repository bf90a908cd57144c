"""The page stands alone, says what it knows, and escapes what it is given."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from markupsafe import Markup

from hh_train.metrics.clip_metric import Row, Score
from hh_train.metrics.comparison.difference import Difference
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurement import ClipMeasurement
from hh_train.metrics.report.page import (
    PromptReport,
    SystemReport,
    difference_rows,
    group_differences,
    make_exhibit,
    make_tile,
    render_report,
    scored_measures,
    slice_rows,
    table_rows,
    write_report,
)
from hh_train.types import Clip

MEASURES = (
    Measure(name="error", title="speech error", unit="%", scale=100.0, digits=1, better="lower"),
    Measure(name="jerk", title="jerk"),
    Measure(name="flow", title="flow"),
)


def systems() -> list[SystemReport]:
    def score(mean: float, **counts: int) -> Score:
        return Score(mean=mean, low=mean / 2, high=mean * 2, **{"num_clips": 10, **counts})

    slices = {"error/en": score(0.1), "error/zh": score(0.3)}
    worse = Difference(
        mean=0.1, low=0.05, high=0.2, num_clips=9, num_blocks=9, p_value=0.004, adjusted_p=0.008, detectable=0.07
    )
    unclear = Difference(mean=-0.01, low=-0.02, high=0.03, num_clips=9, num_blocks=9, p_value=0.4)
    return [
        SystemReport(name="real", folder="/real", num_clips=10, scores={"error": score(0.02)}),
        SystemReport(name="teacher", folder="/teacher", num_clips=10, scores={"error": score(0.1), **slices}),
        SystemReport(
            name="student<8>",
            folder="/student",
            num_clips=10,
            scores={
                "error": score(0.2, num_failed=1),
                "flow": Score(mean=0.5, low=None, high=None, num_clips=8, num_undefined=1),
            },
            failures={"k": "broken & torn"},
            differences={"error": worse, "flow": unclear},
        ),
    ]


def test_the_table_has_floor_and_counts_and_slices_stand_apart() -> None:
    rows = {row.measure.name: row.cells for row in table_rows(systems(), MEASURES)}
    assert list(rows) == ["error", "flow"]
    floor, _, student = rows["error"]
    assert floor and student
    assert (floor.value, floor.interval) == ("2.0", "1.0 to 4.0")
    assert student.clips is None  # all clips: an unreadable one counts as unsaid
    assert rows["flow"][0] is None
    assert rows["flow"][2] and rows["flow"][2].clips == "n = 8, 1 undefined"
    assert rows["flow"][2].interval == "no interval"
    frozen = Score(mean=None, low=None, high=None, num_clips=0, num_undefined=9, num_failed=1)
    column = SystemReport(name="frozen", folder="", num_clips=10, scores={"error": frozen, "flow": frozen})
    assert [m.name for m in scored_measures(MEASURES, [column])] == ["error"]
    (row,) = table_rows([column], MEASURES[:1])
    assert row.cells[0] and (row.cells[0].value, row.cells[0].interval) == ("–", "9 undefined, 1 unreadable")
    english, chinese = slice_rows(systems(), MEASURES)
    assert (english.measure.title, chinese.measure.title) == ("speech error, en", "speech error, zh")
    assert [cell and cell.value for cell in chinese.cells] == [None, "30.0", None]


def test_differences_are_signed_tested_and_in_words() -> None:
    rows = difference_rows(systems(), MEASURES, "teacher")
    error, flow = rows
    assert (error.value, error.interval, error.num_clips) == ("+10.0", "+5.0 to +20.0", 9)
    assert (error.p_value, error.adjusted_p, error.detectable) == ("0.004", "0.008", "±7.0")
    assert error.words == "student<8> is worse than teacher" and error.is_significant
    assert flow.words == "cannot tell apart at n = 9" and not flow.is_significant
    assert (flow.p_value, flow.adjusted_p, flow.detectable) == ("0.400", "–", "–")
    assert [len(members) for members in group_differences(rows).values()] == [1, 1]


def test_the_page_stands_alone(talking_clip: Callable[..., Clip], tmp_path: Path) -> None:
    measured = ClipMeasurement(
        key="k",
        values={"error": Row(1.0, 2.0)},
        details={"heard": "one <b>", "mouth_opening": [0.1, 0.4], "mouth_boxes": [[0.3, 0.6, 0.7, 0.8]] * 9},
        notes=("dim & dark",),
    )
    clip = talking_clip(num_frames=9)
    failed = ClipMeasurement(key="k", failure="broken & torn")
    exhibits = [
        make_exhibit("teacher", measured, clip, b"media", measures=MEASURES),
        make_exhibit("student<8>", failed, None, None, measures=MEASURES),
    ]
    assert exhibits[0].values == [("speech error", "50.0 %")] and exhibits[0].is_misheard
    assert exhibits[0].mouth is not None and exhibits[0].poster is not None
    tiles = [make_tile(measured, clip), make_tile(failed, None)]
    page = render_report(
        title="Evaluation",
        systems=systems(),
        measures=MEASURES,
        base="teacher",
        prompts=[
            PromptReport(
                key="k", prompt='<S, English>: "one"', transcript="one", chosen="among the worst", exhibits=exhibits
            )
        ],
        sheets={"teacher": tiles},
        diagrams={"By language": Markup("<svg><text>bars</text></svg>")},
        curves={"pretrain": Markup("<svg><text>curve</text></svg>"), "distill": "no log in <folder>"},
        protocol={"fingerprint": "0123abcd"},
        notes=["Ten clips are few."],
    )
    write_report(tmp_path / "report.html", page)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert "&lt;S, English&gt;" in page and "heard: one &lt;b&gt;" in page and "student&lt;8&gt;" in page
    assert "<text>curve</text>" in page and "<text>bars</text>" in page and "no log in &lt;folder&gt;" in page
    assert "broken &amp; torn" in page and "0123abcd" in page and "Ten clips are few." in page
    assert "speech error, zh" in page and "dim &amp; dark" in page
    assert page.count("data:video/mp4;base64,bWVkaWE=") == 1 and page.count('<svg class="sound"') == 2
    assert not re.search(r'(src|href)="(?!data:)', page) and "http" not in page.replace("http://www.w3.org", "")
