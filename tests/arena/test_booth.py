"""Raters get pairs, votes are kept, and neither a reload, a kill, nor another rater at the same time upsets them."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hh_train.arena.booth import VOTES_FILE, Booth, VoteError, read_votes
from hh_train.arena.contest import Contest, Program
from hh_train.arena.trials import Pairing

MakeProgram = Callable[..., Program]
OpenBooth = Callable[..., Booth]


class Clock:
    """Time goes on by ten seconds whenever it is asked for."""

    def __init__(self, step: float = 10.0) -> None:
        self.now, self.step = 1e9, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def open_booth(tmp_path: Path, make_program: MakeProgram) -> Iterator[OpenBooth]:
    opened: list[Booth] = []
    usual = Clock()

    def open_it(*, program: Program | None = None, clock: Clock | None = None, **pairing: Any) -> Booth:
        for booth in opened:
            booth.close()
        shown = program or make_program()
        booth = Booth(
            program=shown,
            pairing=Pairing(contests=shown.contests, **pairing),
            folder=tmp_path / "arena",
            clock=clock or usual,
        )
        opened.append(booth)
        return booth

    yield open_it
    for booth in opened:
        booth.close()


def ballot(trial: str, rater: str = "ann", **change: Any) -> dict[str, Any]:
    return {"trial": trial, "rater": rater, "winner": "left", "plays": {"left": 1, "right": 2}, **change}


def test_a_session_of_votes_is_kept(open_booth: OpenBooth, tmp_path: Path) -> None:
    booth = open_booth()
    numbers, winners = [], []
    while (invitation := booth.invite("ann")) is not None:
        numbers.append(invitation.number)
        winner = ("left", "right", "tie", "both_bad")[len(numbers) % 4]
        booth.vote(ballot(invitation.trial, winner=winner, lips="right"))
        winners.append(winner)
    votes, num_damaged = read_votes(tmp_path / "arena")
    assert numbers == list(range(1, len(votes) + 1)) and len(votes) > 12
    assert [vote.winner for vote in votes] == winners and num_damaged == 0
    assert {(v.lips, v.speech, v.trial.rater) for v in votes} == {("right", None, "ann")}
    assert Counter(vote.trial.kind for vote in votes)["comparison"] == 12
    assert [vote.time for vote in votes] == sorted(vote.time for vote in votes)


def test_an_invitation_says_nothing_of_who_made_the_clips(open_booth: OpenBooth, make_program: MakeProgram) -> None:
    booth = open_booth(program=make_program(systems=["teacher", "student"]))
    invitation = booth.invite("ann")
    assert invitation is not None
    said = repr(invitation)
    assert "teacher" not in said and "student" not in said and "prompt-" not in said
    assert invitation.prompt.startswith("Say <")


def test_a_reload_gives_the_same_pair_and_a_restart_too(open_booth: OpenBooth) -> None:
    booth = open_booth()
    first = booth.invite("ann")
    assert first is not None and booth.invite("ann") == first
    shown = [booth.media(first.trial, side) for side in ("left", "right")]
    again = open_booth()  # as after a kill: nothing but the files is left
    assert again.invite("ann") == first
    assert [again.media(first.trial, side) for side in ("left", "right")] == shown
    again.vote(ballot(first.trial))
    assert open_booth().num_votes == 1


def test_a_second_vote_on_a_pair_changes_nothing(open_booth: OpenBooth, tmp_path: Path) -> None:
    booth = open_booth()
    trial = booth.invite("ann").trial
    first = booth.vote(ballot(trial, winner="left"))
    assert booth.vote(ballot(trial, winner="right")) == first
    assert open_booth().vote(ballot(trial, winner="tie")).winner == "left"
    assert [vote.winner for vote in read_votes(tmp_path / "arena")[0]] == ["left"]


def test_a_torn_vote_is_asked_for_again(open_booth: OpenBooth, tmp_path: Path) -> None:
    booth = open_booth()
    for _ in range(2):
        trial = booth.invite("ann").trial
        booth.vote(ballot(trial))
    file = tmp_path / "arena" / VOTES_FILE
    file.write_bytes(file.read_bytes()[:-30])
    again = open_booth()
    assert (again.num_votes, again.num_damaged) == (1, 1)
    assert again.invite("ann").trial == trial
    again.vote(ballot(trial, winner="tie"))
    votes, num_damaged = read_votes(tmp_path / "arena")
    assert [vote.winner for vote in votes] == ["left", "tie"] and num_damaged == 1


def test_raters_at_once_get_pairs_of_their_own(open_booth: OpenBooth, tmp_path: Path) -> None:
    booth = open_booth()

    def vote_all(rater: str) -> list[str]:
        trials = []
        while (invitation := booth.invite(rater)) is not None:
            trials.append(invitation.trial)
            booth.vote(ballot(invitation.trial, rater))
        return trials

    with ThreadPoolExecutor(4) as pool:
        of_rater = list(pool.map(vote_all, ["ann", "bob", "cem", "dee"]))
    votes, num_damaged = read_votes(tmp_path / "arena")
    assert num_damaged == 0
    assert sorted(vote.trial.id for vote in votes) == sorted(trial for trials in of_rater for trial in trials)
    assert Counter(v.trial.rater for v in votes if v.trial.kind == "comparison") == dict.fromkeys(
        ("ann", "bob", "cem", "dee"), 12
    )


def test_a_name_is_one_name_however_it_is_written(open_booth: OpenBooth) -> None:
    booth = open_booth()
    assert booth.invite("  Ann   Lee ") == booth.invite("ann lee")
    assert booth.invite("李") != booth.invite("ann lee")


@pytest.mark.parametrize("name", ["", "   ", "x" * 41, None, 7, "a\x00b", "a\u202eb"])
def test_a_name_that_is_none_is_refused(open_booth: OpenBooth, name: Any) -> None:
    booth = open_booth()
    with pytest.raises(VoteError, match="name"):
        booth.vote(ballot(booth.invite("ann").trial, name))
    if isinstance(name, str):
        with pytest.raises(VoteError, match="name"):
            booth.invite(name)
    assert booth.num_votes == 0


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"plays": {"left": 1, "right": 0}}, "play both"),
        ({"plays": {"left": 1}}, "play both"),
        ({"plays": None}, "play both"),
        ({"plays": {"left": "1", "right": "1"}}, "play both"),
        ({"winner": "A"}, "winner"),
        ({"picture": "both_bad"}, "picture"),
        ({"rater": "bob"}, "not given to you"),
        ({"trial": "nothing"}, "not given to you"),
        ({"trial": None}, "not given to you"),
    ],
)
def test_a_vote_that_cannot_count_is_refused(open_booth: OpenBooth, change: dict[str, Any], fault: str) -> None:
    booth = open_booth()
    trial = booth.invite("ann").trial
    with pytest.raises(VoteError, match=fault):
        booth.vote(ballot(trial, **change) if "trial" not in change else {**ballot(trial), **change})
    assert booth.num_votes == 0
    booth.vote(ballot(trial))
    assert booth.num_votes == 1


def test_a_vote_before_both_can_have_been_played_is_refused(open_booth: OpenBooth) -> None:
    clock = Clock(step=1.0)
    booth = open_booth(clock=clock)  # clips of a second each
    trial = booth.invite("ann").trial
    with pytest.raises(VoteError, match="quicker"):
        booth.vote(ballot(trial))
    clock.now -= 1000  # set back
    assert booth.vote(ballot(trial)).winner == "left"
    trial = booth.invite("ann").trial
    with pytest.raises(VoteError, match="quicker"):
        booth.vote(ballot(trial))
    assert booth.vote(ballot(trial)).winner == "left"  # a second later


def test_media_is_that_of_given_trials_alone(open_booth: OpenBooth) -> None:
    booth = open_booth()
    trial = booth.invite("ann").trial
    left, right = (booth.media(trial, side) for side in ("left", "right"))
    assert left is not None and right is not None and left != right and left.is_file()
    for stranger in ((trial, "middle"), ("x", "left"), ("", ""), ("..", "left"), (f"{trial}/..", "left")):
        assert booth.media(*stranger) is None


def changed(program: Program, system: str) -> Program:
    """The same program after a system has made its clips anew."""

    def remade(contest: Contest) -> Contest:
        takes = {
            name: replace(take, source=take.source + "'") if name == system else take
            for name, take in contest.takes.items()
        }
        return replace(contest, takes=takes)

    return Program(contests=tuple(map(remade, program.contests)))


def test_votes_on_other_clips_of_the_same_name_are_not_mixed(
    open_booth: OpenBooth, make_program: MakeProgram, tmp_path: Path
) -> None:
    program = make_program()
    booth = open_booth(program=program, catch_every=None)
    for _ in range(4):
        booth.vote(ballot(booth.invite("ann").trial))
    with pytest.raises(ValueError, match="'a'"):
        open_booth(program=changed(program, "a"), catch_every=None)
    fewer = Program(contests=program.contests[1:])  # prompts may go, and systems come
    assert open_booth(program=fewer, catch_every=None).num_votes == 4


def test_an_open_pair_whose_clips_have_changed_is_not_shown(open_booth: OpenBooth, make_program: MakeProgram) -> None:
    program = make_program(systems="ab")
    before = open_booth(program=program).invite("ann")
    booth = open_booth(program=changed(program, "a"))
    assert booth.invite("ann").trial != before.trial
    assert booth.media(before.trial, "left") is None or booth.media(before.trial, "right") is None


HOLD = """
import sys, time
from pathlib import Path
from hh_train.data.shards.file_lock import FileLock
lock = FileLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_folder_has_one_arena_at_a_time(open_booth: OpenBooth, tmp_path: Path) -> None:
    open_booth().close()
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "arena" / ".lock")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="another arena is open"):
            open_booth()
    finally:
        other.kill()
        other.communicate()
    assert open_booth().invite("ann") is not None  # the one that was killed has given it back
