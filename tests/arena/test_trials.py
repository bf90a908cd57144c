"""Trials are balanced, blind, and hold the catch trials that they promise."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from hh_train.arena.contest import Program
from hh_train.arena.trials import CONTROL, Pairing, Trial

MakeProgram = Callable[..., Program]


def session(pairing: Pairing, raters: str, most: int = 1000) -> list[Trial]:
    """The raters take turns until nothing is left."""
    history: list[Trial] = []
    waiting = list(raters)
    while waiting and len(history) < most:
        rater = waiting.pop(0)
        trial = pairing.next_trial(rater, history)
        if trial is not None:
            history.append(trial)
            waiting.append(rater)
    return history


def pair(trial: Trial) -> frozenset[str]:
    return frozenset((trial.left, trial.right))


def test_a_rater_sees_every_pair_on_every_prompt_once(make_program: MakeProgram) -> None:
    pairing = Pairing(contests=make_program().contests)
    trials = [t for t in session(pairing, "r") if t.kind == "comparison"]
    assert len({(pair(t), t.key) for t in trials}) == len(trials) == 3 * 4


@pytest.mark.parametrize("num_trials", [6, 13, 24])
def test_pairs_prompts_and_sides_are_balanced_at_any_time(make_program: MakeProgram, num_trials: int) -> None:
    pairing = Pairing(contests=make_program(num_prompts=8).contests, catch_every=None)
    trials = session(pairing, "rst", most=num_trials)
    assert len(trials) == num_trials
    of_pair = Counter(map(pair, trials))
    assert len(of_pair) == 3 and max(of_pair.values()) - min(of_pair.values()) <= 1
    of_cell = Counter((pair(t), t.key) for t in trials)
    assert max(of_cell.values()) == -(-num_trials // 24)
    for names in of_pair:
        on_left = Counter(t.left for t in trials if pair(t) == names)
        assert abs(2 * max(on_left.values()) - of_pair[names]) <= 1
    assert len({t.id for t in trials}) == num_trials


def test_sides_and_prompts_look_random(make_program: MakeProgram) -> None:
    contests = make_program(systems="ab", num_prompts=40).contests
    lefts = []
    for seed in range(20):
        trials = session(Pairing(contests=contests, catch_every=None, seed=seed), "r")
        lefts.append("".join(trial.left for trial in trials))
    assert len(set(lefts)) == 20
    assert {left[0] for left in lefts} == {"a", "b"}
    same = session(Pairing(contests=contests, catch_every=None, seed=0), "r")
    assert "".join(trial.left for trial in same) == lefts[0]


def test_catch_trials_come_at_their_rate_and_by_turns(make_program: MakeProgram) -> None:
    pairing = Pairing(contests=make_program(num_prompts=20).contests, catch_every=6)
    trials = session(pairing, "r")
    kinds = [trial.kind for trial in trials]
    assert kinds[0] == "comparison"
    blocks = [kinds[start : start + 6] for start in range(0, len(kinds) - 6, 6)]
    assert [sum(kind != "comparison" for kind in block) for block in blocks] == [1] * len(blocks)
    catches = Counter(kind for kind in kinds if kind != "comparison")
    assert set(catches) == {"identical", "late", "repeat"} and max(catches.values()) - min(catches.values()) <= 2
    assert abs(len(trials) - pairing.num_trials(trials)) <= 1


def test_each_catch_trial_is_what_it_says(make_program: MakeProgram) -> None:
    program = make_program(num_prompts=20)
    contests = {contest.key: contest for contest in program.contests}
    trials = session(Pairing(contests=program.contests, catch_every=3), "rs")
    numbers = {trial.id: [t.id for t in trials if t.rater == trial.rater].index(trial.id) for trial in trials}
    late_sides = Counter()
    for trial in trials:
        shown = {side: trial.take(contests[trial.key], side).path.stem for side in ("left", "right")}
        if trial.kind == "identical":
            assert trial.left == trial.right and shown["left"] == shown["right"] == f"{trial.key}-{trial.left}"
        elif trial.kind == "late":
            assert trial.left == trial.right == CONTROL
            other = "left" if trial.late == "right" else "right"
            assert shown[trial.late].endswith("-late") and shown[other].endswith("-in-time")
            late_sides[trial.late] += 1
        elif trial.kind == "repeat":
            before = next(t for t in trials if t.id == trial.repeats)
            assert (before.left, before.right, before.key) == (trial.right, trial.left, trial.key)
            assert before.rater == trial.rater and numbers[trial.id] - numbers[before.id] >= 5
        else:
            assert shown == {"left": f"{trial.key}-{trial.left}", "right": f"{trial.key}-{trial.right}"}
    assert len(late_sides) == 2
    repeats = [trial.repeats for trial in trials if trial.kind == "repeat"]
    assert len(set(repeats)) == len(repeats) > 3


def test_without_control_pairs_other_catch_trials_take_their_place(make_program: MakeProgram) -> None:
    trials = session(Pairing(contests=make_program(num_prompts=20, num_controls=0).contests, catch_every=4), "r")
    assert Counter(trial.kind for trial in trials).keys() == {"comparison", "identical", "repeat"}


def test_a_rater_is_done_after_the_trials_that_were_asked_for(make_program: MakeProgram) -> None:
    pairing = Pairing(contests=make_program().contests, trials_per_rater=5)
    trials = session(pairing, "rs")
    assert Counter(trial.rater for trial in trials) == {"r": 5, "s": 5}
    assert pairing.num_trials(trials[:3]) == 5


def test_a_trial_comes_back_from_json(make_program: MakeProgram) -> None:
    for trial in session(Pairing(contests=make_program().contests, catch_every=3), "r"):
        row = json.loads(json.dumps({**trial.to_json(), "more": 1}))
        assert Trial.from_json(row) == trial
        with pytest.raises(ValueError, match="rater"):
            Trial.from_json({name: value for name, value in row.items() if name != "rater"})
        with pytest.raises(ValueError, match="dance"):
            Trial.from_json({**row, "kind": "dance"})
        with pytest.raises(ValueError, match="texts"):
            Trial.from_json({**row, "key": 7})


def test_what_has_changed_since_is_not_shown(make_program: MakeProgram) -> None:
    program = make_program()
    trial = session(Pairing(contests=program.contests, catch_every=None), "r", most=1)[0]
    contest = next(c for c in program.contests if c.key == trial.key)
    assert trial.take(contest, "left") == contest.takes[trial.left]
    changed = {**contest.takes, trial.left: replace(contest.takes[trial.left], source="other")}
    assert trial.take(replace(contest, takes=changed), "left") is None
    assert trial.take(replace(contest, takes={}), "right") is None


@pytest.mark.parametrize("setting", [{"catch_every": 1}, {"trials_per_rater": 0}])
def test_settings_out_of_range_are_refused(make_program: MakeProgram, setting: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        Pairing(contests=make_program().contests, **setting)
