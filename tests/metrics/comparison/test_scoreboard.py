"""From clips to scores, slices and differences."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import pytest
import torch

from hh_train.metrics.clip_metric import Row, Score
from hh_train.metrics.comparison.scoreboard import (
    Spoken,
    compare_sets,
    compare_systems,
    different_clips,
    find_measure,
    score_sets,
    score_system,
)
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurement import ClipMeasurement
from hh_train.metrics.measurer import Measured, Sample
from hh_train.types import ClipMetadata, Prompt

ERROR = Measure(name="error", title="error", unit="%", scale=100.0, digits=1, better="lower")
SYNC = Measure(name="sync", title="sync", better="higher")
FLOW = Measure(name="flow", title="flow")
MEASURES = (ERROR, SYNC, FLOW)
SAID = {
    "d0": ("one two", "en"),
    "d1": ("three four", "en"),
    "s0": ("the cat sleeps well", "en"),
    "z0": ("一二三", "zh"),
}


def known(key: str) -> ClipMetadata:
    text, language = SAID[key]
    return ClipMetadata(key=key, prompt=Prompt(description="A man."), transcript=text, language=language)


def clip(key: str, errors: float = 0.0, *, failure: str | None = None, **values: float | None) -> ClipMeasurement:
    spoken = Spoken.of(known(key))
    assert spoken is not None
    words = float(len(spoken.transcript.split()) if spoken.language == "en" else len(spoken.transcript))
    rows = {name: None if value is None else Row(value) for name, value in values.items()}
    return ClipMeasurement(
        key=key, failure=failure, values={"error": Row(float(errors), words), **rows}, slices=spoken.slices
    )


def test_what_a_clip_was_to_say() -> None:
    assert [Spoken.of(known(key)).slices[1] for key in SAID] == ["en digits", "en digits", "en sentences", "zh digits"]
    metadata = known("d0")
    for odd in (None, ClipMetadata(key="a", prompt=metadata.prompt, transcript="hello"),
                ClipMetadata(key="a", prompt=metadata.prompt, transcript="?!", language="en"),
                ClipMetadata(key="a", prompt=metadata.prompt, transcript="hej", language="sv")):  # fmt: skip
        assert Spoken.of(odd) is None


def test_slices_are_scored_where_they_say_more_than_the_whole() -> None:
    clips = [clip("d0", 0, sync=1.0), clip("d1", 1, sync=0.0), clip("s0", 2, sync=0.5), clip("z0", 0, sync=0.5)]
    scores = score_system(clips, MEASURES, seed=0)
    assert {name: score.mean for name, score in scores.items()} == {
        "error": pytest.approx(3 / 11),
        "error/en": pytest.approx(3 / 8),
        "error/en digits": pytest.approx(1 / 4),
        "error/en sentences": pytest.approx(2 / 4),
        "error/zh": 0.0,
        "sync": 0.5,
        "sync/en": 0.5,
        "sync/zh": 0.5,
    }
    assert set(score_system(clips[:2], MEASURES, seed=0)) == {"error", "sync"}


def test_unmeasured_scores_are_left_out_and_failures_counted() -> None:
    clips = [clip("d0", flow=2.0), clip("d1", 1, flow=None), clip("s0", 4, failure="broken")]
    scores = score_system(clips, MEASURES, seed=0)
    assert "sync" not in scores
    frozen = score_system([clip("d0", sync=None), clip("d1", sync=None)], MEASURES, seed=0)["sync"]
    assert (frozen.mean, frozen.num_clips, frozen.num_undefined) == (None, 0, 2)
    assert (scores["flow"].mean, scores["flow"].num_undefined, scores["flow"].num_failed) == (2.0, 1, 1)
    assert scores["error"].mean == pytest.approx((0 + 1 + 4) / 8)
    assert (scores["error"].num_clips, scores["error"].num_failed) == (3, 1)


def test_speakers_are_drawn_together() -> None:
    """Equal clips of each of twelve speakers: as uncertain as twelve clips, not as ninety-six."""
    values = torch.randn(12, generator=torch.Generator().manual_seed(0)).repeat_interleave(8)

    def width(*, with_speakers: bool) -> float:
        clips = [
            ClipMeasurement(
                key=f"{i:02}", values={"flow": Row(float(v))}, speaker=f"{i // 8}" if with_speakers else None
            )
            for i, v in enumerate(values)
        ]
        score = score_system(clips, [FLOW], seed=0)["flow"]
        assert score.high is not None and score.low is not None
        return score.high - score.low

    assert width(with_speakers=True) > 2 * width(with_speakers=False)


def test_differences_are_paired_micro_and_tested_in_two_families() -> None:
    first = [clip("d0", flow=1.0), clip("s0", flow=3.0)]
    second = [clip("d0", 2, flow=0.5), clip("s0", 2, flow=None), clip("d1", flow=9.0)]
    found = compare_systems(second, first, MEASURES, seed=0)
    assert set(found) == {"error", "flow"}
    assert (found["error"].num_clips, found["error"].mean) == (2, pytest.approx(4 / 6))
    assert (found["flow"].num_clips, found["flow"].mean) == (1, -0.5)
    assert (found["error"].num_tests, found["flow"].num_tests) == (1, 1)


class Found(NamedTuple):
    value: float | None
    low: float | None
    high: float | None
    num_clips: int
    num_failed: int = 0


class MeanDistance:
    """The distance between the means of a feature, and the number of clips."""

    measures: Sequence[Measure] = (Measure(name="count", title="count"),)
    set_measures: Sequence[Measure] = (Measure(name="distance", title="distance", better="lower"),)

    def protocol(self) -> Mapping[str, str]:
        return {}

    def measure(self, sample: Sample) -> Measured:
        return Measured()

    def measure_set(
        self, clips: Sequence[ClipMeasurement], reference: Sequence[ClipMeasurement], *, seed: int
    ) -> Mapping[str, Score]:
        return {"count": Score(mean=float(len(clips)), low=None, high=None, num_clips=len(clips))}

    def measure_sets(
        self,
        generated: Mapping[str, Mapping[str, torch.Tensor]],
        reference: Mapping[str, Mapping[str, torch.Tensor]],
        *,
        failed: Collection[str] = (),
    ) -> Mapping[str, Found]:
        means = [torch.cat([f["x"] for f in found.values()]).mean() for found in (generated, reference)]
        value = float((means[0] - means[1]).abs())
        return {"distance": Found(value, value - 1, value + 1, len(generated), len(failed))}

    def compare_sets(
        self,
        first: Mapping[str, Mapping[str, torch.Tensor]],
        second: Mapping[str, Mapping[str, torch.Tensor]],
        reference: Mapping[str, Mapping[str, torch.Tensor]],
    ) -> Mapping[str, tuple[float, float | None, float | None]]:
        if len(first) < 2:
            raise ValueError("too few")
        ours, theirs = (self.measure_sets(found, reference)["distance"].value for found in (first, second))
        assert ours is not None and theirs is not None
        return {"distance": (ours - theirs, ours - theirs - 0.1, ours - theirs + 0.1)}


def featured(key: str, value: float, failure: str | None = None) -> ClipMeasurement:
    features = {} if failure else {"x": torch.full((2, 1), value)}
    return ClipMeasurement(key=key, features=features, failure=failure)


def test_sets_are_scored_beside_the_reference_without_what_cannot_be_read() -> None:
    real = [featured(key, 1.0) for key in "abc"]
    system = [featured("a", 3.0), featured("b", 5.0), featured("c", 0.0, failure="broken")]
    scores = score_sets(system, real, {"means": MeanDistance()}, seed=0)
    assert (scores["distance"].mean, scores["distance"].num_clips, scores["distance"].num_failed) == (3.0, 2, 1)
    assert scores["count"].mean == 2.0
    fewer = score_sets(system, real, {"means": MeanDistance()}, seed=0, prompts={"a", "z"})
    assert (fewer["distance"].mean, fewer["distance"].num_clips, fewer["count"].mean) == (2.0, 1, 2.0)
    assert set(score_sets(real, real, {"means": MeanDistance()}, seed=0)) == {"count"}
    base = [featured("a", 2.0), featured("b", 2.0), featured("z", 50.0)]
    found = compare_sets(system, base, real, {"means": MeanDistance()})["distance"]
    assert (found.mean, found.num_clips, found.is_significant) == (2.0, 2, True)
    assert compare_sets(system[:1], base, real, {"means": MeanDistance()}) == {}


def test_a_score_has_the_title_of_its_measure() -> None:
    assert find_measure("error/en digits", MEASURES).title == "error, en digits"
    assert find_measure("error", MEASURES).text(0.1234) == "12.3" and ERROR.text(None) == "–"
    with pytest.raises(ValueError, match="there is no measure 'beauty'"):
        find_measure("beauty", MEASURES)


def test_different_sets_of_clips_in_words() -> None:
    assert different_clips({"a": ["x", "y"], "b": ["y", "x"]}) is None
    said = different_clips({"a": ["x", "y", "z"], "b": ["y", "x"]})
    assert said == "a has 3 clips, 1 of them not in all (such as z); b has 2 clips"
