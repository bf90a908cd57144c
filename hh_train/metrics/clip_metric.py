"""The base of the metrics: one row a clip, kept whole, so that any number of processes reduce to exactly the same
score.

Sums would be smaller, but they cannot tell a clip that a distributed sampler has repeated to fill a batch, and give no
interval.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric

from hh_train.metrics.comparison.bootstrap import NUM_RESAMPLES, ratio_interval


class Score(NamedTuple):
    """One number of one system, with its 95 % bootstrap interval over clips, or over the speakers of the clips.

    A tuple, since torchmetrics walks through what `compute` returns and takes no frozen dataclass.
    """

    mean: float | None
    """None when no clip could be measured."""
    low: float | None
    high: float | None
    num_clips: int
    """Clips that the mean is over."""
    num_undefined: int = 0
    """Clips that were read but where the quantity has no meaning (sync of a silent clip): they are not in the mean."""
    num_failed: int = 0
    """Clips that could not be read. They are not in the mean, except where a metric says how it counts them."""


@dataclass(frozen=True)
class Row:
    """One measured quantity of one clip. Scores are sum(numerators) / sum(denominators); for a mean, denominator 1."""

    numerator: float
    denominator: float = 1.0


class Collected(NamedTuple):
    """What was recorded, in rising order of the ids, each clip once."""

    ids: Int[Tensor, " n"]
    rows: Float[Tensor, "n names 2"]
    """Numerator and denominator; NaN where undefined."""
    failed: Bool[Tensor, " n"]
    blocks: Int[Tensor, " n"]
    """Clips of one number are drawn together: those of one speaker."""


def clip_id(key: str) -> int:
    """63-bit hash of a clip's key: what the processes exchange in its place."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


class ClipMetric(Metric):
    """Collects one row a clip and scores each of `names` with a bootstrap interval.

    A clip that is given twice, in one process or in several, counts once (its first row). A process without clips takes
    part.

    Args:
        num_resamples: bootstrap draws.
        seed: of the bootstrap draws.
    """

    names: ClassVar[tuple[str, ...]] = ()
    """What is measured, in the order of the rows."""
    full_state_update = False

    ids: list[Tensor]
    rows: list[Tensor]
    failed: list[Tensor]
    blocks: list[Tensor]

    def __init__(self, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> None:
        super().__init__()
        self.num_resamples, self.seed = num_resamples, seed
        for name in ("ids", "rows", "failed", "blocks"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self._seed_states()

    def reset(self) -> None:
        super().reset()
        self._seed_states()

    def _seed_states(self) -> None:
        """Puts an empty tensor into each list: a gather over processes needs a tensor from every one of them."""
        none = torch.zeros(0, dtype=torch.int64)
        self._append(none, torch.zeros(0, len(self.names), 2, dtype=torch.float64), none, none)

    def _append(self, ids: Tensor, rows: Tensor, failed: Tensor, blocks: Tensor) -> None:
        self.ids.append(ids.to(self.device))
        self.rows.append(rows.to(self.device))
        self.failed.append(failed.to(self.device, torch.bool))
        self.blocks.append(blocks.to(self.device))

    def record(
        self,
        key: str,
        values: Mapping[str, Row | float | None],
        *,
        failed: bool = False,
        speaker: str | None = None,
    ) -> None:
        """Adds one measured clip.

        Args:
            key: of the clip.
            values: by name; one that is missing, None or not finite is undefined for the clip.
            failed: whether the clip could not be read.
            speaker: the intervals draw all clips of a speaker together; None draws this one alone.

        Raises:
            ValueError: for a name that the metric does not have.
        """
        unknown = set(values) - set(self.names)
        if unknown:
            raise ValueError(f"{type(self).__name__} has no {sorted(unknown)}; give some of {self.names}")
        pairs = [_pair(values.get(name)) for name in self.names]
        rows = torch.tensor([pairs], dtype=torch.float64)
        block = clip_id(f"clip {key}" if speaker is None else f"block {speaker}")
        self._append(torch.tensor([clip_id(key)]), rows, torch.tensor([failed]), torch.tensor([block]))
        self._update_count += 1
        self._computed = None

    def record_failure(self, key: str) -> None:
        """Adds a clip that could not be read: it is counted, and nothing about it is measured."""
        self.record(key, {}, failed=True)

    def collected(self) -> Collected:
        """All that was recorded, in this process or in all of them."""
        ids, rows, failed, blocks = (_concatenate(s) for s in (self.ids, self.rows, self.failed, self.blocks))
        order = torch.argsort(ids, stable=True)
        ids = ids[order]
        first = torch.ones_like(ids, dtype=torch.bool)
        first[1:] = ids[1:] != ids[:-1]
        kept = order[first]
        return Collected(ids=ids[first], rows=rows[kept], failed=failed[kept], blocks=blocks[kept])

    def compute(self) -> dict[str, Score]:
        found = self.collected()
        return {
            name: score_rows(
                found.rows[:, i], found.failed, blocks=found.blocks, num_resamples=self.num_resamples, seed=self.seed
            )
            for i, name in enumerate(self.names)
        }


def score_rows(
    rows: Float[Tensor, "n 2"],
    failed: Bool[Tensor, " n"],
    *,
    blocks: Int[Tensor, " n"] | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Score:
    """The score of one quantity.

    Args:
        rows: numerator and denominator of each clip; NaN where undefined.
        failed: the clips that could not be read. Those with a row are in the mean.
        blocks: clips of one number are drawn together.
        num_resamples: draws of the interval.
        seed: of the draws.
    """
    defined = rows.isfinite().all(dim=1)
    num_failed, num_undefined = int(failed.sum()), int((~defined & ~failed).sum())
    kept = rows[defined]
    if not kept.numel() or float(kept[:, 1].sum()) == 0:
        return Score(mean=None, low=None, high=None, num_clips=0, num_undefined=num_undefined, num_failed=num_failed)
    low, high = ratio_interval(
        kept[:, 0],
        kept[:, 1],
        blocks=None if blocks is None else blocks[defined],
        num_resamples=num_resamples,
        seed=seed,
    )
    mean = float(kept[:, 0].sum() / kept[:, 1].sum())
    return Score(mean=mean, low=low, high=high, num_clips=len(kept), num_undefined=num_undefined, num_failed=num_failed)


def _pair(value: Row | float | None) -> tuple[float, float]:
    if value is None:
        return math.nan, math.nan
    return (value.numerator, value.denominator) if isinstance(value, Row) else (float(value), 1.0)


def _concatenate(state: list[Tensor] | Tensor) -> Tensor:
    """After a synchronization torchmetrics leaves a tensor where it found a list."""
    return torch.cat(state) if isinstance(state, list) else state
