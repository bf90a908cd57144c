"""How a score is named and printed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One quantity of a clip, and of the table's row for it."""

    name: str
    title: str
    unit: str = ""
    scale: float = 1.0
    """Printed value over stored value."""
    digits: int = 2
    better: Literal["lower", "higher"] | None = None
    """None: nearer to the real clips is better."""

    def text(self, value: float | None) -> str:
        return "–" if value is None else f"{value * self.scale:.{self.digits}f}"
