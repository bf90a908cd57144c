"""A vote says what was chosen, and nothing that is no choice becomes one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hh_train.arena.trials import Trial
from hh_train.arena.votes import ASPECTS, Vote, read_choices, system_on

TRIAL = Trial(
    id="t", rater="r", kind="comparison", key="p", left="a", right="b", left_source="1", right_source="2", issued=3.0
)
VOTE = Vote(trial=TRIAL, winner="right", lips="left", speech="tie", picture=None, time=9.5)


def test_a_vote_comes_back_from_json() -> None:
    row = json.loads(json.dumps(VOTE.to_json()))
    assert Vote.from_json(row) == VOTE
    assert row["trial"]["left"] == "a" and row["winner"] == "right"


@pytest.mark.parametrize(
    "change",
    [{"version": 0}, {"trial": None}, {"trial": {"id": "t"}}, {"time": None}, {"winner": None}, {"lips": "both_bad"}],
)
def test_rows_that_are_no_vote_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got"):
        Vote.from_json({**VOTE.to_json(), **change})


def test_each_question_has_its_own_answer() -> None:
    assert [VOTE.of(question) for question in ("overall", *ASPECTS)] == ["right", "left", "tie", None]
    assert (system_on(TRIAL, "left"), system_on(TRIAL, "right")) == ("a", "b")


@pytest.mark.parametrize("winner", ["", "a", "LEFT", None, 1, ["left"], {}])
def test_a_winner_is_one_of_four(winner: Any) -> None:
    with pytest.raises(ValueError, match="left, right, tie, both_bad"):
        read_choices({"winner": winner})
    for known in ("left", "right", "tie", "both_bad"):
        assert read_choices({"winner": known})["winner"] == known
