"""What a rater says of two clips, and what a vote says of two systems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from hh_train.arena.contest import Side
from hh_train.arena.trials import Trial

Choice = Literal["left", "right", "tie", "both_bad"]
AspectChoice = Literal["left", "right", "tie"]
ASPECTS = ("lips", "speech", "picture")
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Vote:
    """One judgement of one trial."""

    trial: Trial
    winner: Choice
    lips: AspectChoice | None
    """None where the rater says nothing; likewise `speech` and `picture`."""
    speech: AspectChoice | None
    picture: AspectChoice | None
    time: float
    """Seconds since 1970."""

    def of(self, aspect: str) -> Choice | None:
        """What is said of an aspect; of `overall`, who wins."""
        choices: dict[str, Choice | None] = {
            "overall": self.winner,
            "lips": self.lips,
            "speech": self.speech,
            "picture": self.picture,
        }
        return choices[aspect]

    def to_json(self) -> dict[str, Any]:
        """One line of the votes: it can be read without the trials."""
        own = {"winner": self.winner, "lips": self.lips, "speech": self.speech, "picture": self.picture}
        return {"version": VERSION, "time": self.time, **own, "trial": self.trial.to_json()}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Vote:
        """Reads `to_json`'s fields. Raises ValueError when they are none."""
        trial = row.get("trial")
        if row.get("version") != VERSION or not isinstance(trial, Mapping) or not isinstance(row.get("time"), float):
            raise ValueError(f"got {row}; wanted a vote of version {VERSION}")
        return cls(trial=Trial.from_json(trial), time=row["time"], **read_choices(row))


def read_choices(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`winner`, `lips`, `speech` and `picture`. Raises ValueError when one is no choice."""
    winner = fields.get("winner")
    if winner not in get_args(Choice):
        raise ValueError(f"got the winner {winner!r}; wanted one of {', '.join(get_args(Choice))}")
    for aspect in ASPECTS:
        if fields.get(aspect) not in (None, *get_args(AspectChoice)):
            raise ValueError(f"got {aspect} {fields[aspect]!r}; wanted one of {', '.join(get_args(AspectChoice))}")
    return {"winner": winner, **{aspect: fields.get(aspect) for aspect in ASPECTS}}


def system_on(trial: Trial, side: Side) -> str:
    """Whose clip is on a side."""
    return trial.left if side == "left" else trial.right
