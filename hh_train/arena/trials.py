"""Which two clips a rater sees next: balanced over pairs of systems, prompts and sides, with catch trials between."""

from __future__ import annotations

import random
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Literal, get_args

from hh_train.arena.contest import Contest, Side, Take

Kind = Literal["comparison", "identical", "late", "repeat"]
"""Of these the last three are catch trials: twice the same clip; a clip against itself with its sound late; a pair that
the rater has judged before, its sides changed."""

CONTROL = "control"
"""Stands for the system where a clip is shown against itself with its sound late."""
_REPEAT_AFTER = 4
_CATCHES: tuple[Kind, ...] = ("identical", "late", "repeat")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Two clips put before one rater."""

    id: str
    """Says nothing: it stands in addresses."""
    rater: str
    kind: Kind
    key: str
    """Of the prompt."""
    left: str
    """System; likewise `right`."""
    right: str
    left_source: str
    """Hash of the file that the system made; likewise `right_source`."""
    right_source: str
    late: Side | None = None
    """The side whose sound is late."""
    repeats: str | None = None
    """The trial that this one repeats."""
    issued: float = 0.0
    """Seconds since 1970."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Trial:
        """Reads `to_json`'s fields and ignores others. Raises ValueError when one is missing or means nothing."""
        missing = [name for name in cls.__dataclass_fields__ if name not in row]
        if missing:
            raise ValueError(f"got a trial without {', '.join(missing)}")
        if row["kind"] not in get_args(Kind) or row["late"] not in (None, *get_args(Side)):
            raise ValueError(f"got a trial of the kind {row['kind']!r} with {row['late']!r} late")
        texts = ("id", "rater", "key", "left", "right", "left_source", "right_source")
        if not all(isinstance(row[name], str) for name in texts) or not isinstance(row["issued"], float):
            raise ValueError(f"got a trial of {row}; wanted texts, and the time as a number")
        return cls(**{name: row[name] for name in cls.__dataclass_fields__})

    def take(self, contest: Contest, side: Side) -> Take | None:
        """The clip on a side; None where the contest no longer has what was shown."""
        if self.kind == "late" and contest.control is not None:
            take = contest.control.late if side == self.late else contest.control.in_time
        else:
            found = contest.takes.get(self.left if side == "left" else self.right)
            if found is None or self.kind == "late":
                return None
            take = found
        return take if take.source == (self.left_source if side == "left" else self.right_source) else None


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Chooses trials. What is chosen depends on the trials before it and on the seed alone.

    Every `catch_every` trials of a rater hold one catch trial, the kinds by turns, never as the rater's first trial.
    """

    contests: Sequence[Contest]
    catch_every: int | None = 8
    """None: no catch trials."""
    trials_per_rater: int | None = None
    """None: until the rater has seen every pair on every prompt."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("catch_every", "trials_per_rater"):
            value = getattr(self, name)
            if value is not None and value < 2:
                raise ValueError(f"got {name} {value}; wanted 2 or more, or null for none")

    def num_trials(self, rater_history: Sequence[Trial]) -> int:
        """How many trials the rater will have seen in the end, at the most."""
        pairs = sum(len(contest.takes) * (len(contest.takes) - 1) // 2 for contest in self.contests)
        catches = sum(trial.kind != "comparison" for trial in rater_history)
        if self.catch_every is not None:
            catches = max(catches, pairs // (self.catch_every - 1))
        return min(pairs + catches, self.trials_per_rater or pairs + catches)

    def next_trial(self, rater: str, history: Sequence[Trial]) -> Trial | None:
        """The rater's next trial after those of all raters so far; None when there is nothing left to see."""
        mine = [trial for trial in history if trial.rater == rater]
        if self.trials_per_rater is not None and len(mine) >= self.trials_per_rater:
            return None
        draw = random.Random(f"{self.seed} {rater} {len(mine)}")
        comparison = self._comparison(rater, mine, history, draw)
        if comparison is None:
            return None
        for kind in self._kinds_due(rater, len(mine)):
            catch = self._catch(kind, rater, mine, draw)
            if catch is not None:
                return catch
        return comparison

    def _kinds_due(self, rater: str, number: int) -> Sequence[Kind]:
        """The kinds of catch trial to try; none where a comparison is due."""
        if self.catch_every is None:
            return ()
        block, position = divmod(number, self.catch_every)
        own = random.Random(f"{self.seed} {rater} block {block}")
        if position != own.randrange(1 if block == 0 else 0, self.catch_every):
            return ()
        order = random.Random(f"{self.seed} {rater}").sample(_CATCHES, len(_CATCHES))
        first = block % len(order)
        return order[first:] + order[:first]

    def _comparison(
        self, rater: str, mine: Sequence[Trial], history: Sequence[Trial], draw: random.Random
    ) -> Trial | None:
        """The pair that was shown least, on the prompt where it was shown least, of those that are new to the rater."""
        compared = [trial for trial in history if trial.kind == "comparison"]
        of_pair = Counter(_pair(trial) for trial in compared)
        of_cell = Counter((_pair(trial), trial.key) for trial in compared)
        seen = {(_pair(trial), trial.key) for trial in mine if trial.kind == "comparison"}
        prompts_seen = Counter(trial.key for trial in mine)
        best: list[tuple[Contest, tuple[str, str]]] = []
        least: tuple[int, ...] | None = None
        for contest in self.contests:
            for first, second in combinations(sorted(contest.takes), 2):
                pair = (first, second)
                if (pair, contest.key) in seen:
                    continue
                rank = (of_pair[pair], of_cell[pair, contest.key], prompts_seen[contest.key])
                if least is None or rank < least:
                    best, least = [], rank
                if rank == least:
                    best.append((contest, pair))
        if not best:
            return None
        contest, pair = draw.choice(best)
        first_left = sum(trial.left == pair[0] for trial in compared if _pair(trial) == pair)
        behind = 2 * first_left - of_pair[pair]
        left, right = pair if behind < 0 or (behind == 0 and draw.random() < 0.5) else pair[::-1]
        return _trial(rater, "comparison", contest, left, right)

    def _catch(self, kind: Kind, rater: str, mine: Sequence[Trial], draw: random.Random) -> Trial | None:
        if kind == "repeat":
            return self._repeat(rater, mine, draw)
        used = Counter(trial.key for trial in mine if trial.kind == kind)
        usable = [contest for contest in self.contests if kind == "identical" or contest.control is not None]
        if not usable:
            return None
        fewest = min(used[contest.key] for contest in usable)
        contest = draw.choice([contest for contest in usable if used[contest.key] == fewest])
        if kind == "late":
            return _trial(rater, kind, contest, CONTROL, CONTROL, late=draw.choice(("left", "right")))
        system = draw.choice(sorted(contest.takes))
        return _trial(rater, kind, contest, system, system)

    def _repeat(self, rater: str, mine: Sequence[Trial], draw: random.Random) -> Trial | None:
        repeated = {trial.repeats for trial in mine}
        by_key = {contest.key: contest for contest in self.contests}
        usable = [
            trial
            for trial in mine[: max(0, len(mine) - _REPEAT_AFTER)]
            if trial.kind == "comparison" and trial.id not in repeated and _is_shown(trial, by_key.get(trial.key))
        ]
        if not usable:
            return None
        before = draw.choice(usable)
        return _trial(rater, "repeat", by_key[before.key], before.right, before.left, repeats=before.id)


def _pair(trial: Trial) -> tuple[str, str]:
    return (trial.left, trial.right) if trial.left < trial.right else (trial.right, trial.left)


def _is_shown(trial: Trial, contest: Contest | None) -> bool:
    return contest is not None and all(trial.take(contest, side) is not None for side in get_args(Side))


def _trial(
    rater: str,
    kind: Kind,
    contest: Contest,
    left: str,
    right: str,
    *,
    late: Side | None = None,
    repeats: str | None = None,
) -> Trial:
    if kind == "late" and contest.control is not None:
        sources = (contest.control.in_time.source, contest.control.late.source)
    else:
        sources = (contest.takes[left].source, contest.takes[right].source)
    return Trial(
        id=secrets.token_urlsafe(12),
        rater=rater,
        kind=kind,
        key=contest.key,
        left=left,
        right=right,
        left_source=sources[0],
        right_source=sources[1],
        late=late,
        repeats=repeats,
    )
