"""What is voted on: for each prompt, one clip of every system that has it, made alike in all but content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Side = Literal["left", "right"]
SIDES: tuple[Side, Side] = ("left", "right")


@dataclass(frozen=True, kw_only=True)
class Take:
    """A system's clip as it is shown."""

    path: Path
    seconds: float
    source: str
    """Hash of the file that the system made: a vote is on this."""


@dataclass(frozen=True, kw_only=True)
class ControlPair:
    """One clip twice: as it is, and with its sound late."""

    in_time: Take
    late: Take


@dataclass(frozen=True, kw_only=True)
class Contest:
    """One prompt."""

    key: str
    prompt: str
    takes: Mapping[str, Take]
    """By system, two or more."""
    control: ControlPair | None = None


@dataclass(frozen=True, kw_only=True)
class Program:
    """All that can be voted on."""

    contests: Sequence[Contest]
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Reasons, by `system/key` or key."""

    @property
    def systems(self) -> list[str]:
        """In the order of their first appearance."""
        return list(dict.fromkeys(name for contest in self.contests for name in contest.takes))
