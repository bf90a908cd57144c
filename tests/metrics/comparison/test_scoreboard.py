"""From clips to scores, slices, differences and words."""

from __future__ import annotations

import pytest

from hh_train.metrics.comparison.bootstrap import Difference
from hh_train.metrics.comparison.scoreboard import (
    MEASURES,
    SWAPPED,
    Spoken,
    difference,
    find_measure,
    in_words,
    score_system,
)
from hh_train.metrics.measurement import ClipMeasurement, failed_measurement
from hh_train.metrics.speech.wer import count_errors

SPOKEN = {
    "d0": Spoken(transcript="one two", language="en"),
    "d1": Spoken(transcript="three four", language="en"),
    "s0": Spoken(transcript="the cat sleeps well", language="en"),
    "z0": Spoken(transcript="一二三", language="zh"),
}
HEARD = {"d0": "one two", "d1": "three nine", "s0": "the dog sleeps", "z0": "一二三"}


def clip(key: str, heard: str | None = None, **values: float | None) -> ClipMeasurement:
    spoken = SPOKEN[key]
    said = HEARD[key] if heard is None else heard
    errors = count_errors(spoken.transcript, said, spoken.language)
    return ClipMeasurement(key=key, heard=said, errors=errors, values=values)


def test_slices_of_the_speech_error() -> None:
    scores = score_system([clip(key) for key in SPOKEN], SPOKEN, seed=0)
    rates = {name: score.mean for name, score in scores.items() if name.startswith("error_rate")}
    assert rates == {
        "error_rate": pytest.approx(3 / 11),
        "error_rate/en": pytest.approx(3 / 8),
        "error_rate/en digits": pytest.approx(1 / 4),
        "error_rate/en sentences": pytest.approx(2 / 4),
        "error_rate/zh digits": 0.0,
    }


def test_unmeasured_scores_are_left_out_and_failures_counted() -> None:
    clips = [
        clip("d0", flow=2.0),
        clip("d1", flow=None),
        failed_measurement("s0", "broken", "the cat sleeps well", "en"),
    ]
    scores = score_system(clips, SPOKEN, seed=0)
    assert "jerk" not in scores and SWAPPED not in scores
    assert (scores["flow"].mean, scores["flow"].num_undefined, scores["flow"].num_failed) == (2.0, 1, 1)
    assert scores["error_rate"].mean == pytest.approx((0 + 1 + 4) / 8)
    assert (scores["error_rate"].num_clips, scores["error_rate"].num_failed) == (3, 1)


def test_differences_are_paired_and_micro() -> None:
    first = [clip("d0", flow=1.0), clip("s0", flow=3.0)]
    second = [clip("d0", "nothing right", flow=0.5), clip("s0", flow=None), clip("d1", flow=9.0)]
    found = difference("error_rate", second, first, seed=0)
    assert (found.num_clips, found.mean) == (2, pytest.approx(4 / 6 - 2 / 6))
    flow = difference("flow", second, first, seed=0)
    assert (flow.num_clips, flow.mean) == (1, -0.5)


def test_differences_in_words() -> None:
    def said(low: float, high: float, name: str) -> str:
        found = Difference(mean=(low + high) / 2, low=low, high=high, num_clips=24)
        return in_words(found, find_measure(name), system="student", base="teacher")

    assert said(-0.1, 0.2, "error_rate") == "cannot tell apart at n = 24"
    assert said(0.0, 0.0, "error_rate") == "equal at n = 24"
    assert said(0.1, 0.2, "error_rate") == "student is worse than teacher"
    assert said(0.1, 0.2, "zero_lag_correlation") == "student is better than teacher"
    assert said(-0.2, -0.1, "saturation") == "student is lower than teacher"
    nothing = Difference(mean=None, low=None, high=None, num_clips=0)
    assert "share no clip" in in_words(nothing, find_measure("flow"), system="student", base="teacher")


def test_every_score_has_a_title() -> None:
    scores = score_system([clip(key) for key in SPOKEN], SPOKEN, seed=0)
    assert all(find_measure(name).title for name in scores)
    assert find_measure("error_rate/en digits").title == "speech error, en digits"
    assert find_measure("error_rate").text(0.1234) == "12.3" and find_measure("error_rate").text(None) == "–"
    assert len({m.name for m in MEASURES}) == len(MEASURES)
    with pytest.raises(ValueError, match="there is no measure 'beauty'"):
        find_measure("beauty")
