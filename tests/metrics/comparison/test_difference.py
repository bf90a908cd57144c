"""Paired differences: what pairing gains, common clips, speakers, and what may be said."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hh_train.metrics.clip_metric import Row
from hh_train.metrics.comparison.bootstrap import ratio_interval
from hh_train.metrics.comparison.difference import Difference, adjusted_together, in_words, paired_difference
from hh_train.metrics.measure import Measure

ERROR = Measure(name="error", title="error", better="lower")
LOOK = Measure(name="look", title="look")


def clips(values: torch.Tensor) -> dict[str, Row]:
    return {f"{i:03}": Row(float(v)) for i, v in enumerate(values)}


def test_pairing_sees_a_small_difference_that_shared_difficulty_would_hide() -> None:
    generator = torch.Generator().manual_seed(2)
    difficulty = torch.randn(80, generator=generator) * 5
    first, second = clips(difficulty + 0.5 + 0.3 * torch.randn(80, generator=generator)), clips(difficulty)
    found = paired_difference(first, second)
    assert found.is_significant and found.num_blocks == 80
    assert found.mean == pytest.approx(0.5, abs=0.15)
    assert found.high is not None and found.low is not None and found.detectable is not None
    low, high = ratio_interval(torch.tensor([r.numerator for r in first.values()]), torch.ones(80))
    assert found.high - found.low < (high - low) / 4
    assert found.detectable == pytest.approx((found.high - found.low) / 2 * 2.8016 / 1.96, rel=0.1)


def test_intervals_hold_the_difference_and_equal_systems_are_not_told_apart() -> None:
    generator = torch.Generator().manual_seed(3)
    trials, held, rejected = 100, 0, 0
    for trial in range(trials):
        first, second = (clips(torch.randn(60, generator=generator)) for _ in range(2))
        found = paired_difference(first, second, num_resamples=300, seed=trial)
        assert found.low is not None and found.high is not None
        held += found.low <= 0 <= found.high
        rejected += found.is_significant
    assert 0.88 < held / trials <= 0.99
    assert 0.01 <= rejected / trials < 0.1


def test_clips_of_one_speaker_do_not_count_as_many() -> None:
    """Twelve speakers, of whom half say everything better and half everything worse, eight clips each."""
    effect = torch.tensor([1.0, -0.8] * 6).repeat_interleave(8)
    first, second = clips(effect), clips(torch.zeros(96))
    speakers = {key: f"speaker {int(key) // 8}" for key in first}
    by_clip, by_speaker = paired_difference(first, second), paired_difference(first, second, blocks=speakers)
    assert (by_clip.num_blocks, by_speaker.num_blocks) == (96, 12)
    assert by_clip.mean == by_speaker.mean == pytest.approx(0.1)
    assert by_clip.high is not None and by_speaker.high is not None
    assert by_speaker.high - 0.1 > 2 * (by_clip.high - 0.1)
    assert by_speaker.detectable is not None and by_clip.detectable is not None
    assert by_speaker.detectable > 2 * by_clip.detectable


def test_differences_are_micro_and_over_the_common_clips_alone() -> None:
    first = {"a": Row(1.0, 2.0), "b": Row(3.0, 4.0), "only first": Row(100.0)}
    second = {"b": Row(1.0, 4.0), "a": Row(1.0, 2.0), "only second": Row(-100.0)}
    found = paired_difference(first, second)
    assert found.num_clips == 2
    assert found.mean == pytest.approx(4 / 6 - 2 / 6)
    assert found.detectable is None, "two clips detect nothing"
    assert paired_difference(first, {}).mean is None
    assert not paired_difference(first, {}).is_significant
    assert paired_difference({"a": Row(0.0, 0.0)}, {"a": Row(0.0, 0.0)}).mean is None


def test_many_measures_adjusted_together_need_more() -> None:
    one = Difference(mean=1.0, low=0.5, high=1.5, num_clips=50, num_blocks=50, p_value=0.03)
    assert one.is_significant
    sure = replace(one, p_value=0.001)
    found = adjusted_together(
        {"error": one, "sure": sure, "other": replace(one, p_value=0.7), "none": replace(one, p_value=None)}
    )
    assert (found["error"].adjusted_p, found["sure"].adjusted_p) == (pytest.approx(0.06), pytest.approx(0.003))
    assert not found["error"].is_significant and found["sure"].is_significant
    assert found["none"].adjusted_p is None and found["none"].is_significant, "the interval decides without a test"
    words = in_words(found["error"], ERROR, system="student", base="teacher")
    assert words == "cannot tell apart at n = 50 once 3 measures are tested together"


def test_differences_in_words() -> None:
    def said(low: float, high: float, measure: Measure, *, p_value: float, blocks: int = 24) -> str:
        found = Difference(mean=(low + high) / 2, low=low, high=high, num_clips=24, num_blocks=blocks, p_value=p_value)
        return in_words(found, measure, system="student", base="teacher")

    assert said(-0.1, 0.2, ERROR, p_value=0.5) == "cannot tell apart at n = 24"
    assert said(0.0, 0.0, ERROR, p_value=1.0) == "equal at n = 24"
    assert said(0.1, 0.2, ERROR, p_value=0.01) == "student is worse than teacher"
    assert said(-0.2, -0.1, ERROR, p_value=0.01) == "student is better than teacher"
    assert said(-0.2, -0.1, LOOK, p_value=0.01) == "student is lower than teacher"
    assert said(0.1, 0.2, ERROR, p_value=0.125, blocks=4) == "n = 24 is too few to tell anything apart"
    nothing = Difference(mean=None, low=None, high=None, num_clips=0)
    assert "share no clip" in in_words(nothing, ERROR, system="student", base="teacher")
