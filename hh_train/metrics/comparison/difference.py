"""One system against another on the clips that both have: how much, how sure, and what that allows to say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from hh_train.metrics.clip_metric import Row, clip_id
from hh_train.metrics.comparison.bootstrap import NUM_RESAMPLES, block_sums, draw_counts, percentiles
from hh_train.metrics.comparison.significance import LEVEL, can_tell, detectable_difference, holm, swap_test
from hh_train.metrics.measure import Measure


@dataclass(frozen=True, kw_only=True)
class Difference:
    """First system minus second, over the clips that both have. All numbers are None without such clips."""

    mean: float | None
    low: float | None
    high: float | None
    num_clips: int
    num_blocks: int = 0
    """What was resampled: speakers, or clips where there are too few speakers or none is known."""
    p_value: float | None = None
    adjusted_p: float | None = None
    """The p-value among all that were tested together; None where it was tested alone."""
    num_tests: int = 1
    detectable: float | None = None
    """The smallest true difference that would be found in 80 % of such comparisons; None where none could be."""

    @property
    def is_significant(self) -> bool:
        """Whether the systems differ, at the 5 % level over all that were tested together; without a test, whether the
        interval leaves out zero.
        """
        p_value = self.p_value if self.adjusted_p is None else self.adjusted_p
        if p_value is not None:
            return p_value < LEVEL
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def paired_difference(
    first: Mapping[str, Row],
    second: Mapping[str, Row],
    *,
    blocks: Mapping[str, str] | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Difference:
    """First minus second, from their rows by clip; both are resampled with the same draws.

    Clips that only one of them has are left out: their number is `len(first) - num_clips`, so that a caller can tell.

    Args:
        first: by clip.
        second: by clip.
        blocks: names of the blocks by clip, such as speakers; a clip without one is a block of its own.
        num_resamples: draws of the interval.
        seed: of the draws.
    """
    keys = sorted(first.keys() & second.keys())
    if not keys:
        return Difference(mean=None, low=None, high=None, num_clips=0)
    named = blocks or {}
    rows = torch.tensor(
        [[first[k].numerator, first[k].denominator, second[k].numerator, second[k].denominator] for k in keys],
        dtype=torch.float64,
    )
    total = rows.sum(0)
    if float(total[1]) == 0 or float(total[3]) == 0:
        return Difference(mean=None, low=None, high=None, num_clips=0)
    sums = block_sums(rows, torch.tensor([clip_id(block_of(k, named)) for k in keys]))
    drawn = draw_counts(len(sums), num_resamples, seed) @ sums
    differences = drawn[:, 0] / drawn[:, 1] - drawn[:, 2] / drawn[:, 3]
    low, high = percentiles(differences)
    return Difference(
        mean=float(total[0] / total[1] - total[2] / total[3]),
        low=low,
        high=high,
        num_clips=len(keys),
        num_blocks=len(sums),
        p_value=swap_test(sums[:, :2], sums[:, 2:], seed=seed),
        detectable=detectable_difference(differences) if can_tell(len(sums)) else None,
    )


def block_of(key: str, blocks: Mapping[str, str]) -> str:
    """The clip's block; itself, marked as such, where it has none."""
    return f"block {blocks[key]}" if key in blocks else f"clip {key}"


def adjusted_together(differences: Mapping[str, Difference]) -> dict[str, Difference]:
    """The same differences, by measure, with their p-values adjusted for being tested together (Holm)."""
    tested = {name: found.p_value for name, found in differences.items() if found.p_value is not None}
    adjusted = holm(tested)
    return {
        name: replace(found, adjusted_p=adjusted[name], num_tests=len(tested)) if name in adjusted else found
        for name, found in differences.items()
    }


def in_words(found: Difference, measure: Measure, *, system: str, base: str) -> str:
    """What a difference allows to say."""
    if found.mean is None or found.low is None or found.high is None:
        return f"{system} and {base} share no clip on which this is defined"
    if found.low == found.high == 0.0:
        return f"equal at n = {found.num_clips}"
    if not found.is_significant:
        if found.p_value is not None and not can_tell(found.num_blocks):
            return f"n = {found.num_clips} is too few to tell anything apart"
        alone = found.p_value is not None and found.p_value < LEVEL
        together = f" once {found.num_tests} measures are tested together" if alone else ""
        return f"cannot tell apart at n = {found.num_clips}{together}"
    direction = "higher" if found.mean > 0 else "lower"
    if measure.better is None:
        return f"{system} is {direction} than {base}"
    return f"{system} is {'better' if direction == measure.better else 'worse'} than {base}"
