"""Rankings count comparisons alone; catch trials say how far a rater can be trusted; tables are read by other tools."""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from hh_train.arena.results import CSV_COLUMNS, Reliability, summarize, write_results
from hh_train.arena.trials import CONTROL, Trial
from hh_train.arena.votes import Vote

NUMBERS = count()


def vote(left: str, right: str, winner: str, *, rater: str = "ann", kind: str = "comparison", **fields: Any) -> Vote:
    of_trial = {name: fields.pop(name) for name in ("late", "repeats", "key") if name in fields}
    trial = Trial(
        id=f"trial-{next(NUMBERS)}",
        rater=rater,
        kind=kind,
        left=left,
        right=right,
        left_source="1",
        right_source="2",
        **{"key": "p", **of_trial},
    )
    aspects = {"lips": None, "speech": None, "picture": None, **fields}
    return Vote(trial=trial, winner=winner, time=1_700_000_000.0, **aspects)


def ratings(votes: Sequence[Vote], question: str = "overall", **settings: Any) -> dict[str, float]:
    return {r.system: r.points for r in summarize(votes, **settings).rankings[question].ratings}


def test_a_vote_is_for_the_system_on_its_side() -> None:
    votes = [vote("a", "b", "left"), vote("b", "a", "right"), vote("a", "b", "tie"), vote("b", "a", "both_bad")]
    known = summarize(votes).rankings["overall"].ratings
    assert [(r.system, r.num_votes, r.num_wins, r.num_ties) for r in known] == [("a", 4, 2, 2), ("b", 4, 0, 2)]
    assert known[0].points > 1010 and known[1].points < 990


def test_catch_trials_move_no_rating() -> None:
    votes = [vote("a", "b", "left", key=str(i)) for i in range(3)] + [vote("a", "b", "right")]
    catches = [
        vote("a", "b", "right", kind="repeat", repeats=votes[0].trial.id),
        vote("b", "b", "left", kind="identical"),
        vote(CONTROL, CONTROL, "left", kind="late", late="right"),
    ]
    assert ratings(votes + catches) == ratings(votes)
    results = summarize(votes + catches)
    assert results.systems == ("a", "b") and (results.num_votes, results.num_catches) == (4, 3)


def test_each_question_has_a_ranking_of_its_own() -> None:
    votes = [vote("a", "b", "left", lips="right", key=str(i)) for i in range(5)]
    votes += [vote("a", "b", "left", lips=None, speech="tie")]
    assert ratings(votes)["a"] > 1100 and ratings(votes, "lips")["a"] < 900
    assert ratings(votes, "speech")["a"] == pytest.approx(1000)
    assert "picture" not in summarize(votes).rankings
    assert summarize(votes).rankings["lips"].ratings[0].num_votes == 5


def test_catch_trials_measure_the_rater() -> None:
    first, second, third = (vote("a", "b", winner) for winner in ("left", "left", "tie"))
    votes = [
        first,
        second,
        third,
        vote("b", "a", "right", rater="bob"),
        vote("b", "a", "right", kind="repeat", repeats=first.trial.id),  # again a
        vote("b", "a", "left", kind="repeat", repeats=second.trial.id),  # now b
        vote("b", "a", "both_bad", kind="repeat", repeats=third.trial.id),  # neither, again
        vote("a", "a", "tie", kind="identical"),
        vote("a", "a", "left", kind="identical"),
        vote(CONTROL, CONTROL, "left", kind="late", late="right"),
        vote(CONTROL, CONTROL, "tie", kind="late", late="left", lips="right"),
        vote(CONTROL, CONTROL, "right", kind="late", late="right"),
        vote(CONTROL, CONTROL, "tie", kind="late", late="right"),
    ]
    ann, bob = summarize(votes).reliability
    assert ann == Reliability(rater="ann", num_votes=3, left_share=1.0, identical=(1, 2), late=(2, 4), repeat=(2, 3))
    assert bob == Reliability(rater="bob", num_votes=1, left_share=0.0, identical=(0, 0), late=(0, 0), repeat=(0, 0))


def test_raters_can_be_left_out() -> None:
    votes = [vote("a", "b", "left", key=str(i)) for i in range(4)]
    votes += [vote("a", "b", "right", rater="bob", key=str(i)) for i in range(4)]
    assert ratings(votes)["a"] == pytest.approx(1000)
    assert ratings(votes, left_out=["Bob"])["a"] > 1100
    assert [row.rater for row in summarize(votes, left_out=["bob"]).reliability] == ["ann", "bob"]
    with pytest.raises(ValueError, match="'bo'"):
        summarize(votes, left_out=["bo"])


def test_without_a_comparison_there_is_nothing_to_say() -> None:
    for votes in ([], [vote("a", "a", "tie", kind="identical")]):
        with pytest.raises(ValueError, match="no vote on two systems"):
            summarize(votes)


def test_the_files_hold_what_was_voted(tmp_path: Path) -> None:
    votes = [
        vote("a", "b", "left", lips="right", key='p "1", x'),
        vote("b", "a", "both_bad", speech="tie", picture="left"),
        vote("a", "b", "tie", rater="bob"),
        vote("a", "a", "tie", kind="identical"),
    ]
    results = summarize(votes, left_out=["bob"], tie_rule="davidson", num_damaged=3)
    write_results(tmp_path, results, votes)
    with (tmp_path / "votes.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [(r["model_a"], r["model_b"], r["winner"]) for r in rows] == [("a", "b", "model_a"), ("b", "a", "both_bad")]
    assert rows[0]["question_id"] == 'p "1", x' and rows[0]["tstamp"] == "2023-11-14T22:13:20+00:00"
    assert [(r["winner_lips"], r["winner_speech"], r["winner_picture"]) for r in rows] == [
        ("model_b", "", ""),
        ("", "tie", "model_a"),
    ]
    told = json.loads((tmp_path / "ratings.json").read_text(encoding="utf-8"))
    assert told["tie_rule"] == "davidson" and told["num_damaged"] == 3 and told["left_out"] == ["bob"]
    overall = told["rankings"]["overall"]
    assert overall["ratings"][0]["system"] == "a" and overall["ratings"][0]["points"] > 1000
    assert "cannot tell" in overall["gaps"][0]["in_words"]
    assert not list(tmp_path.glob(".*"))


def test_the_table_gives_lmarenas_program_the_same_ratings() -> None:
    """What arena-rank 0.1.1 says of this table, read as it is: a maximum without a prior, ties half a win for each."""
    draw, strengths, votes = random.Random(0), {"a": 0.6, "b": 0.1, "c": -0.7}, []
    for index in range(900):
        left, right = draw.sample("abc", 2)
        left_wins = 1 / (1 + math.exp(strengths[right] - strengths[left]))
        tied = draw.random()
        decided = "left" if tied >= 0.15 and draw.random() < left_wins else "right"
        winner = "tie" if tied < 0.1 else "both_bad" if tied < 0.15 else decided
        votes.append(vote(left, right, winner, rater=f"rater {index % 5}", key=str(index % 60)))
    assert ratings(votes) == pytest.approx({"a": 1102.2133, "b": 1008.5096, "c": 889.2771}, abs=0.1)
