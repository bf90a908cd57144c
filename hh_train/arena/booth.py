"""Where raters get their trials and leave their votes. What it has said and heard is on the disk before it answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hh_train.arena.contest import SIDES, Program
from hh_train.arena.journal import Journal
from hh_train.arena.trials import Pairing, Trial
from hh_train.arena.votes import Vote, read_choices
from hh_train.data.shards.file_lock import FileLock

TRIALS_FILE, VOTES_FILE = "trials.jsonl", "votes.jsonl"
MAX_RATER_LENGTH = 40
_EARLY_SHARE = 0.9
"""Of the time that both clips last: no vote is believed that comes before. Clocks and players round."""


class VoteError(ValueError):
    """A vote or a rater's name that cannot be taken; the message is for the rater."""


@dataclass(frozen=True, kw_only=True)
class Invitation:
    """What a rater may know of a trial."""

    trial: str
    prompt: str
    number: int
    """Of the trials of this rater, from 1 on."""
    num_trials: int
    """About how many there will be."""


def read_votes(folder: Path) -> tuple[list[Vote], int]:
    """The votes of an arena's folder, the first of each trial, and how many lines of the file cannot be read."""
    rows, num_damaged = Journal(folder / VOTES_FILE).read()
    votes: dict[str, Vote] = {}
    for row in rows:
        try:
            vote = Vote.from_json(row)
        except (ValueError, TypeError):
            num_damaged += 1
            continue
        votes.setdefault(vote.trial.id, vote)
    return list(votes.values()), num_damaged


class Booth:
    """The state of an arena, for any number of raters at once, kept in `trials.jsonl` and `votes.jsonl`.

    Args:
        program: what can be voted on.
        pairing: chooses the trials.
        folder: of the two files. One process at a time has it.
        clock: seconds since 1970.

    Raises:
        ValueError: another process has the folder, or holds votes on clips that have changed since.
    """

    def __init__(
        self, *, program: Program, pairing: Pairing, folder: Path, clock: Callable[[], float] = time.time
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file_lock = FileLock(folder / ".lock")
        if not self._file_lock.acquire(wait=False):
            raise ValueError(f"another arena is open on {folder}; close it, or give this one another `output`")
        self._contests = {contest.key: contest for contest in program.contests}
        self._pairing = pairing
        self._clock = clock
        self._lock = threading.Lock()
        self._trial_journal, self._vote_journal = Journal(folder / TRIALS_FILE), Journal(folder / VOTES_FILE)
        self._trials: dict[str, Trial] = {}
        votes, self.num_damaged = read_votes(folder)
        for row in self._trial_journal.read()[0]:
            try:
                trial = Trial.from_json(row)
            except (ValueError, TypeError):
                continue
            self._trials.setdefault(trial.id, trial)
        for vote in votes:
            self._trials.setdefault(vote.trial.id, vote.trial)
        self._votes = {vote.trial.id: vote for vote in votes}
        try:
            self._require_same_clips(folder)
        except ValueError:
            self.close()
            raise

    @property
    def num_votes(self) -> int:
        return len(self._votes)

    def close(self) -> None:
        """Gives the folder back."""
        self._file_lock.release()

    def invite(self, rater: str) -> Invitation | None:
        """The rater's open trial, or a new one; None when the rater has seen everything.

        Raises:
            VoteError: the name is none.
        """
        name = _rater_name(rater)
        with self._lock:
            mine = [trial for trial in self._trials.values() if trial.rater == name]
            trial = next((t for t in mine if t.id not in self._votes and self._can_be_shown(t)), None)
            if trial is None:
                chosen = self._pairing.next_trial(name, list(self._trials.values()))
                if chosen is None:
                    return None
                trial = replace(chosen, issued=float(self._clock()))
                self._trial_journal.append(trial.to_json())
                self._trials[trial.id] = trial
                mine.append(trial)
            return Invitation(
                trial=trial.id,
                prompt=self._contests[trial.key].prompt,
                number=sum(t.id in self._votes for t in mine) + 1,
                num_trials=self._pairing.num_trials(mine),
            )

    def media(self, trial_id: str, side: str) -> Path | None:
        """The file on a side of a trial; None where there is none."""
        trial = self._trials.get(trial_id)
        contest = None if trial is None else self._contests.get(trial.key)
        for known in SIDES:
            if trial is not None and contest is not None and side == known:
                take = trial.take(contest, known)
                return None if take is None else take.path
        return None

    def vote(self, fields: Mapping[str, Any]) -> Vote:
        """Takes a vote: `trial`, `rater`, `plays` (of `left` and `right`), `winner`, and if wanted `lips`, `speech` and
        `picture`. A second vote on a trial changes nothing; the first is returned.

        Raises:
            VoteError: the trial is not this rater's, a clip has not been played, or a choice is none.
        """
        try:
            choices = read_choices(fields)
        except ValueError as error:
            raise VoteError(str(error)) from error
        with self._lock:
            trial = self._trials.get(str(fields.get("trial")))
            if trial is None or trial.rater != _rater_name(fields.get("rater")):
                raise VoteError("this pair of clips was not given to you; reload the page")
            if trial.id in self._votes:
                return self._votes[trial.id]
            now = self._clock()
            self._require_played(trial, fields.get("plays"), now)
            vote = Vote(trial=trial, time=float(now), **choices)
            self._vote_journal.append(vote.to_json())
            self._votes[trial.id] = vote
            return vote

    def _require_played(self, trial: Trial, plays: Any, now: float) -> None:
        """Each side must have been played once, and there must have been time for it."""
        for side in SIDES:
            count = plays.get(side) if isinstance(plays, Mapping) else None
            if not isinstance(count, int) or count < 1:
                raise VoteError("play both clips to their end before you vote")
        contest = self._contests.get(trial.key)
        takes = [] if contest is None else [trial.take(contest, side) for side in SIDES]
        lasting = sum(take.seconds for take in takes if take is not None)
        if 0 <= now - trial.issued < _EARLY_SHARE * lasting:  # a clock that was set back says nothing
            raise VoteError("that was quicker than the two clips last: play both to their end")

    def _can_be_shown(self, trial: Trial) -> bool:
        contest = self._contests.get(trial.key)
        return contest is not None and all(trial.take(contest, side) is not None for side in SIDES)

    def _require_same_clips(self, folder: Path) -> None:
        """A name must stand for the clips that were voted on."""
        for vote in self._votes.values():
            trial = vote.trial
            contest = self._contests.get(trial.key)
            if contest is None or trial.kind == "late":
                continue
            for system, source in ((trial.left, trial.left_source), (trial.right, trial.right_source)):
                take = contest.takes.get(system)
                if take is not None and take.source != source:
                    raise ValueError(
                        f"the votes in {folder} are on other clips of {system!r} than there are now (such as "
                        f"{trial.key}); give the system another name, or the arena another `output`"
                    )


def _rater_name(rater: Any) -> str:
    """Without space around it, in one spelling. Raises VoteError when it is none."""
    name = " ".join(rater.split()).casefold() if isinstance(rater, str) else ""
    if not 0 < len(name) <= MAX_RATER_LENGTH or not name.isprintable():
        raise VoteError(f"give a name of 1 to {MAX_RATER_LENGTH} letters")
    return name
