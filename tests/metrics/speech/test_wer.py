"""Known edits give known rates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hh_train.metrics.speech.wer import SpeechErrorRate, count_errors

WORDS = [f"word{i}" for i in range(30)]


@given(st.sets(st.integers(0, 29)))
def test_k_substitutions_in_n_words_are_k_over_n(changed: set[int]) -> None:
    heard = [f"other{i}" if i in changed else word for i, word in enumerate(WORDS)]
    errors = count_errors(" ".join(WORDS), " ".join(heard), "en")
    assert (errors.substitutions, errors.deletions, errors.insertions) == (len(changed), 0, 0)
    assert errors.total / errors.reference_units == len(changed) / 30


def test_kinds_of_errors() -> None:
    errors = count_errors("one two three four", "one three four five", "en")
    assert (errors.substitutions, errors.deletions, errors.insertions, errors.total) == (0, 1, 1, 2)
    assert count_errors("一二三", "一三", "zh").deletions == 1
    assert count_errors("eins zwei", "EINS, zwei!", "German").total == 0


def test_a_loop_may_exceed_one() -> None:
    metric = SpeechErrorRate()
    metric.update("a", "one two", "one two " * 4, "en")
    scores = metric.compute()
    assert scores["error_rate"].mean == scores["insertion_rate"].mean == 3.0


def test_nothing_heard_and_nothing_to_say() -> None:
    assert count_errors("one two", "", "en").deletions == 2
    assert count_errors("one two", "?!", "en").deletions == 2
    for missing in (None, "", "..."):
        with pytest.raises(ValueError, match="give the spoken words"):
            count_errors(missing, "one", "en")


def test_the_mean_is_micro_and_a_broken_file_gains_nothing() -> None:
    metric = SpeechErrorRate()
    metric.update("short", "one", "two", "en")
    metric.update("long", " ".join(WORDS[:9]), " ".join(WORDS[:9]), "en")
    assert metric.compute()["error_rate"].mean == pytest.approx(1 / 10)
    metric.update("broken", " ".join(WORDS[:10]), None, "en")
    scores = metric.compute()
    assert scores["error_rate"].mean == pytest.approx(11 / 20)
    assert scores["deletion_rate"].mean == pytest.approx(10 / 20)
    assert scores["error_rate"].num_failed == 1


def test_an_oracle_scores_zero_and_a_constant_nearly_one() -> None:
    oracle, constant = SpeechErrorRate(), SpeechErrorRate()
    for i in range(40):
        said = f"{WORDS[i % 30]} {WORDS[(3 * i + 1) % 30]} {WORDS[(7 * i + 2) % 30]}"
        oracle.update(str(i), said, said.upper(), "en")
        constant.update(str(i), said, "word0 word1 word2", "en")
    assert oracle.compute()["error_rate"] == (0.0, 0.0, 0.0, 40, 0, 0)
    rate = constant.compute()["error_rate"]
    assert rate.mean is not None and 0.8 < rate.mean <= 1.0
