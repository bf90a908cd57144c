"""The diagrams show the numbers that they are given."""

from __future__ import annotations

from xml.etree import ElementTree

from hh_train.metrics.clip_metric import Score
from hh_train.metrics.measure import Measure
from hh_train.metrics.report.charts import language_bars, offset_histogram

ERROR = Measure(name="error", title="speech error", unit="%", scale=100.0, better="lower")
SYNC = Measure(name="sync", title="sync", better="higher")


def score(mean: float) -> Score:
    return Score(mean=mean, low=mean - 0.05, high=mean + 0.1, num_clips=9)


def texts(drawing: str) -> list[str]:
    return [e.text for e in ElementTree.fromstring(drawing).iter() if e.tag.endswith("text") and e.text]


def bar_heights(drawing: str) -> list[float]:
    """Of the filled rectangles, in the order of drawing."""
    root = ElementTree.fromstring(drawing)
    heights = []
    for group in root.iter():
        if group.attrib.get("id", "").startswith("patch_"):
            path = next(iter(group))
            if "clip-path" in path.attrib:
                numbers = [
                    float(v) for v in path.attrib["d"].replace("M", "").replace("L", "").replace("z", "").split()
                ]
                heights.append(max(numbers[1::2]) - min(numbers[1::2]))
    return heights


def test_a_panel_for_each_measure_that_has_languages() -> None:
    scores = {
        "real": {"error": score(0.1), "error/en": score(0.1), "error/zh": score(0.2), "error/en digits": score(0.9)},
        "student": {"error": score(0.3), "error/en": score(0.4), "sync": score(0.5)},
    }
    drawing = language_bars(scores, [ERROR, SYNC])
    assert drawing is not None
    said = texts(drawing)
    assert "speech error ↓" in said and {"en", "zh", "real", "student"} <= set(said)
    assert not {"en digits", "sync ↑"} & set(said)
    first, second, third = bar_heights(drawing)  # real en, real zh, student en
    assert abs(second / first - 2) < 0.02 and abs(third / first - 4) < 0.02
    assert language_bars({"real": {"error": score(0.1)}}, [ERROR, SYNC]) is None


def test_offsets_are_counted_by_whole_frames() -> None:
    drawing = offset_histogram({"real": [0.1, -0.2, 0.4, 1.2], "silent": [], "late": [-3.0, -3.0]})
    assert drawing is not None
    said = texts(drawing)
    assert "real (n = 4)" in said and "late (n = 2)" in said and not any("silent" in text for text in said)
    heights = [height for height in bar_heights(drawing) if height > 0]
    assert len(heights) == 3 and abs(heights[0] / heights[1] - 3) < 0.02, "three at zero, one at +1; two at -3"
    assert offset_histogram({"real": []}) is None
    assert offset_histogram({"far": [400.0]}) is not None
