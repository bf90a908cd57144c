"""What the votes say: strengths with intervals, how the raters fared in the catch trials, and files for other tools."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from hh_train.arena.rating import PRIOR_STD, Outcome, Ranking, TieRule, rank
from hh_train.arena.votes import ASPECTS, Vote, system_on

QUESTIONS = ("overall", *ASPECTS)
CSV_COLUMNS = ("question_id", "model_a", "model_b", "winner", "judge", "tstamp", *(f"winner_{a}" for a in ASPECTS))
"""The names that LMArena's tools read (`model_a`, `model_b`, `winner`), then more."""
_IN_CSV = {"left": "model_a", "right": "model_b", "tie": "tie", "both_bad": "both_bad"}


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """One rater in the catch trials. Each pair of numbers: how often it went well, of how many."""

    rater: str
    num_votes: int
    """Comparisons, without catch trials."""
    left_share: float | None
    """Of votes for a side; near a half without a habit."""
    identical: tuple[int, int]
    """Neither side preferred, where both were the same clip."""
    late: tuple[int, int]
    """The clip in time preferred over itself with its sound late, on the whole or in its lips."""
    repeat: tuple[int, int]
    """The same answer the second time."""


@dataclass(frozen=True, kw_only=True)
class Results:
    """All that an arena's votes say."""

    systems: tuple[str, ...]
    rankings: Mapping[str, Ranking]
    """By question: overall, lips, speech, picture; those without a vote are left out."""
    reliability: tuple[Reliability, ...]
    """By rater, those that are left out of the rankings too."""
    num_votes: int
    """In the overall ranking."""
    num_catches: int
    left_out: tuple[str, ...]
    tie_rule: TieRule
    num_damaged: int

    def to_json(self) -> dict[str, Any]:
        rankings = {
            question: {**asdict(ranking), "gaps": [{**asdict(gap), "in_words": gap.in_words} for gap in ranking.gaps]}
            for question, ranking in self.rankings.items()
        }
        return {**asdict(self), "rankings": rankings, "prior_std": PRIOR_STD}


def summarize(
    votes: Sequence[Vote],
    *,
    tie_rule: TieRule = "half",
    left_out: Collection[str] = (),
    num_damaged: int = 0,
    seed: int = 0,
) -> Results:
    """Rankings of the comparisons, and the raters' reliability in the catch trials, which no ranking counts.

    "Both are bad" counts as a tie.

    Args:
        votes: of all kinds of trial.
        tie_rule: see `hh_train.arena.rating`.
        left_out: raters whose votes the rankings do not count.
        num_damaged: lines of the votes' file that could not be read, to be passed on.
        seed: of the bootstrap.

    Raises:
        ValueError: there is no comparison to rank, or a rater to be left out has not voted.
    """
    excluded = {rater.casefold() for rater in left_out}
    strangers = excluded - {vote.trial.rater for vote in votes}
    if strangers:
        raise ValueError(f"got the raters {sorted(strangers)} to leave out, but they have not voted")
    comparisons = [v for v in votes if v.trial.kind == "comparison" and v.trial.rater not in excluded]
    if not comparisons:
        raise ValueError("there is no vote on two systems yet; open the arena and vote")
    systems = tuple(sorted({name for v in comparisons for name in (v.trial.left, v.trial.right)}))
    rankings = {}
    for question in QUESTIONS:
        outcomes = [outcome for vote in comparisons if (outcome := _outcome(vote, question)) is not None]
        if outcomes:
            rankings[question] = rank(outcomes, systems, tie_rule=tie_rule, seed=seed)
    return Results(
        systems=systems,
        rankings=rankings,
        reliability=tuple(_reliability(votes)),
        num_votes=len(comparisons),
        num_catches=sum(vote.trial.kind != "comparison" for vote in votes),
        left_out=tuple(sorted(excluded)),
        tie_rule=tie_rule,
        num_damaged=num_damaged,
    )


def _outcome(vote: Vote, question: str) -> Outcome | None:
    choice = vote.of(question)
    if choice is None:
        return None
    winner: Literal["first", "second", "tie"] = (
        "first" if choice == "left" else "second" if choice == "right" else "tie"
    )
    trial = vote.trial
    return Outcome(first=trial.left, second=trial.right, winner=winner, prompt=trial.key, rater=trial.rater)


def _preferred(vote: Vote, question: str = "overall") -> str | None:
    """The system that a vote prefers; None for neither."""
    choice = vote.of(question)
    return system_on(vote.trial, choice) if choice in ("left", "right") else None


def _reliability(votes: Sequence[Vote]) -> list[Reliability]:
    by_trial = {vote.trial.id: vote for vote in votes}
    rows = []
    for rater in sorted({vote.trial.rater for vote in votes}):
        mine = [vote for vote in votes if vote.trial.rater == rater]
        sides = Counter(vote.winner for vote in mine if vote.trial.kind == "comparison")
        identical = [vote.winner in ("tie", "both_bad") for vote in mine if vote.trial.kind == "identical"]
        late = [_hears_late(vote) for vote in mine if vote.trial.kind == "late"]
        repeats = [
            _preferred(vote) == _preferred(by_trial[vote.trial.repeats])
            for vote in mine
            if vote.trial.kind == "repeat" and vote.trial.repeats in by_trial
        ]
        decided = sides["left"] + sides["right"]
        rows.append(
            Reliability(
                rater=rater,
                num_votes=sides.total(),
                left_share=sides["left"] / decided if decided else None,
                identical=(sum(identical), len(identical)),
                late=(sum(late), len(late)),
                repeat=(sum(repeats), len(repeats)),
            )
        )
    return rows


def _hears_late(vote: Vote) -> bool:
    in_time = "right" if vote.trial.late == "left" else "left"
    return in_time in (vote.winner, vote.lips)


def write_results(folder: Path, results: Results, votes: Sequence[Vote]) -> None:
    """Writes `ratings.json` and `votes.csv`, each complete or not at all."""
    _write(folder / "ratings.json", json.dumps(results.to_json(), indent=1, ensure_ascii=False) + "\n")
    write_csv(folder / "votes.csv", [vote for vote in votes if vote.trial.rater not in results.left_out])


def write_csv(path: Path, votes: Sequence[Vote]) -> None:
    """The comparisons as a table: `model_a` was on the left; `winner` is model_a, model_b, tie or both_bad."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(CSV_COLUMNS)
        for vote in votes:
            trial = vote.trial
            if trial.kind != "comparison":
                continue
            aspects = [_IN_CSV.get(vote.of(aspect) or "", "") for aspect in ASPECTS]
            when = datetime.fromtimestamp(vote.time, UTC).isoformat(timespec="seconds")
            table.writerow([trial.key, trial.left, trial.right, _IN_CSV[vote.winner], trial.rater, when, *aspects])
    unfinished.replace(path)


def _write(path: Path, text: str) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
