"""Strengths from votes: the model of Bradley and Terry (1952) by maximum likelihood, with ties.

Of two systems of strengths s and u, the first wins with probability exp(s) / (exp(s) + exp(u)). Two rules for ties:

- `half`: a tie is half a win for each, the usual convention of public arenas.
- `davidson`: a tie is an outcome of its own, of weight v * exp((s + u) / 2), with v estimated from all votes (Davidson,
  "On extending the Bradley-Terry model to accommodate ties", 1970). Strengths come out further apart than under `half`.

A normal prior on each strength (and on log v) keeps a system that has won every vote at a finite strength.
Intervals are bootstrap percentiles over prompts and raters at once (Owen, "The pigeonhole bootstrap", 2007): votes on
one prompt, and votes of one rater, are not independent. Resampling knows nothing of what was never voted: five votes
for one side are five in every draw. So an interval is never narrower than what the curvature of the posterior gives,
which takes votes as independent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray

TieRule = Literal["half", "davidson"]

PRIOR_STD = 3.0
"""Of a strength, in natural units: 521 points. Of a gap that a hundred votes show, 60 to 40, it takes 0.2 points."""
POINTS = 400 / math.log(10)
"""Rating points to a natural unit of strength: 400 points are odds of ten to one, as in Elo's scale."""
MEAN_RATING = 1000.0
NUM_RESAMPLES = 1000
FEW_PROMPTS = 10
"""Below this, resampling prompts tells too little of the prompts that were not drawn."""

_MAX_STEPS = 100
_LONGEST_STEP = 1.0
_PRECISION = 1e-9

Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One vote between two systems."""

    first: str
    second: str
    winner: Literal["first", "second", "tie"]
    prompt: str
    rater: str


@dataclass(frozen=True, kw_only=True)
class Rating:
    """One system's strength in points: the mean over systems is 1000."""

    system: str
    points: float
    low: float | None
    """95 % interval; None where all votes are on one prompt by one rater."""
    high: float | None
    num_votes: int
    num_wins: int
    num_ties: int


@dataclass(frozen=True, kw_only=True)
class Gap:
    """How many points one system is ahead of another."""

    first: str
    second: str
    points: float
    low: float | None
    high: float | None
    num_votes: int
    """Between these two."""

    @property
    def in_words(self) -> str:
        """What the votes allow to be said."""
        if self.low is None or self.high is None:
            return "no interval: more prompts or more raters are needed"
        if self.low > 0:
            return f"{self.first} is preferred"
        if self.high < 0:
            return f"{self.second} is preferred"
        return f"cannot tell them apart with {self.num_votes} votes"


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """All systems, the strongest first, and every two of them against each other."""

    ratings: tuple[Rating, ...]
    gaps: tuple[Gap, ...]
    num_prompts: int
    num_raters: int


def rank(
    outcomes: Sequence[Outcome],
    systems: Sequence[str],
    *,
    tie_rule: TieRule = "half",
    num_resamples: int = NUM_RESAMPLES,
    prior_std: float = PRIOR_STD,
    seed: int = 0,
) -> Ranking:
    """The ranking of `systems` by the votes; one without a vote stands at the mean.

    Raises:
        ValueError: fewer than two systems, or a vote on one that is not among them.
    """
    names = list(dict.fromkeys(systems))
    strangers = {name for o in outcomes for name in (o.first, o.second)} - set(names)
    if len(names) < 2 or strangers:
        raise ValueError(f"got the systems {names} and votes on {sorted(strangers)}; give all systems, two or more")
    pairs = list(combinations(range(len(names)), 2))
    cells, prompts, raters = _cells(outcomes, names, pairs)
    features = _features(pairs, len(names), with_ties=tie_rule == "davidson")
    counts = cells.sum(axis=0, keepdims=True)
    parameters = _fit(counts, features, prior_std)
    strengths = POINTS * parameters[0, : len(names)]
    weights = _cluster_weights(prompts, raters, num_resamples, seed)
    spread = None
    if weights is not None:
        resampled = (weights @ cells.reshape(len(cells), -1)).reshape(num_resamples, len(pairs), 3)
        spread = _Spread(
            strengths=strengths,
            drawn=POINTS * _fit(resampled, features, prior_std)[:, : len(names)],
            covariance=POINTS**2 * _covariance(parameters, counts, features, prior_std)[: len(names), : len(names)],
        )
    unit = np.eye(len(names))
    ratings = []
    for index, name in enumerate(names):
        own = [(o, o.first == name) for o in outcomes if name in (o.first, o.second)]
        low, high = (None, None) if spread is None else spread.interval(unit[index] - 1 / len(names))
        ratings.append(
            Rating(
                system=name,
                points=MEAN_RATING + float(strengths[index]),
                low=None if low is None else MEAN_RATING + low,
                high=None if high is None else MEAN_RATING + high,
                num_votes=len(own),
                num_wins=sum(o.winner == ("first" if is_first else "second") for o, is_first in own),
                num_ties=sum(o.winner == "tie" for o, _ in own),
            )
        )
    order = sorted(range(len(names)), key=lambda index: -strengths[index])
    gaps = []
    for a, b in combinations(order, 2):
        low, high = (None, None) if spread is None else spread.interval(unit[a] - unit[b])
        pair = pairs.index((min(a, b), max(a, b)))
        gaps.append(
            Gap(
                first=names[a],
                second=names[b],
                points=float(strengths[a] - strengths[b]),
                low=low,
                high=high,
                num_votes=int(counts[0, pair].sum()),
            )
        )
    return Ranking(
        ratings=tuple(ratings[index] for index in order),
        gaps=tuple(gaps),
        num_prompts=len(set(prompts)),
        num_raters=len(set(raters)),
    )


def fit_strengths(
    counts: Numbers,
    pairs: Sequence[tuple[int, int]],
    num_systems: int,
    *,
    tie_rule: TieRule = "half",
    prior_std: float = PRIOR_STD,
) -> Numbers:
    """Strengths [draws, num_systems] in natural units, their mean zero, of the largest posterior density.

    Newton's method on all draws at once; the objective is concave.

    Args:
        counts: [draws, pairs, 3] of how often the first wins, the second wins, and neither.
        pairs: the two systems of each pair, by number.
        num_systems: how many systems there are.
        tie_rule: see the module.
        prior_std: of the prior of each strength, and of log v.
    """
    features = _features(pairs, num_systems, with_ties=tie_rule == "davidson")
    return _fit(counts, features, prior_std)[:, :num_systems]


@dataclass(frozen=True, kw_only=True)
class _Spread:
    """How far strengths, in points, may be off."""

    strengths: Numbers
    drawn: Numbers
    """[resamples, systems]."""
    covariance: Numbers
    """Of the posterior."""

    def interval(self, contrast: Numbers) -> tuple[float, float]:
        """95 % interval of a weighted sum of strengths: the wider of resampling and curvature on either side."""
        low, high = np.quantile(self.drawn @ contrast, [0.025, 0.975])
        middle = float(self.strengths @ contrast)
        half = 1.96 * math.sqrt(float(contrast @ self.covariance @ contrast))
        return min(float(low), middle - half), max(float(high), middle + half)


def _fit(counts: Numbers, features: Numbers, prior_std: float) -> Numbers:
    """[draws, parameters] of the largest posterior density."""
    counts = _by_outcome(counts, features)
    parameters = np.zeros((counts.shape[0], features.shape[-1]))
    value = _log_posterior(parameters, counts, features, prior_std)
    for _ in range(_MAX_STEPS):
        slope, curvature = _derivatives(parameters, counts, features, prior_std)
        if np.abs(slope).max() < _PRECISION * (1 + counts.sum(axis=(1, 2)).max()):
            break
        step = np.linalg.solve(curvature, slope[..., None])[..., 0]
        step *= np.minimum(1, _LONGEST_STEP / np.maximum(np.abs(step).max(axis=1, keepdims=True), _PRECISION))
        for _ in range(30):  # half the step where it goes too far
            next_value = _log_posterior(parameters + step, counts, features, prior_std)
            worse = next_value < value - _PRECISION * (1 + np.abs(value))
            if not worse.any():
                break
            step[worse] /= 2
        parameters, value = parameters + step, next_value
    return parameters


def _by_outcome(counts: Numbers, features: Numbers) -> Numbers:
    """Where ties are no outcome of their own, half of them go to each side."""
    return counts if features.shape[1] == 3 else counts[..., :2] + counts[..., 2:] / 2


def _covariance(parameters: Numbers, counts: Numbers, features: Numbers, prior_std: float) -> Numbers:
    """[parameters, parameters] of the posterior of one draw, about its maximum."""
    curvature = _derivatives(parameters, _by_outcome(counts, features), features, prior_std)[1][0]
    return np.asarray(np.linalg.inv(curvature))


def _features(pairs: Sequence[tuple[int, int]], num_systems: int, *, with_ties: bool) -> Numbers:
    """[pairs, outcomes, parameters]: the log weight of an outcome is linear in the strengths (and log v)."""
    features = np.zeros((len(pairs), 2 + with_ties, num_systems + with_ties))
    for row, (first, second) in enumerate(pairs):
        features[row, 0, first] = features[row, 1, second] = 1
        if with_ties:
            features[row, 2, [first, second]] = 0.5
            features[row, 2, -1] = 1
    return features


def _log_posterior(parameters: Numbers, counts: Numbers, features: Numbers, prior_std: float) -> Numbers:
    logits = np.einsum("pod,bd->bpo", features, parameters)
    total = np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    return np.asarray((counts * (logits - total)).sum(axis=(1, 2)) - (parameters**2).sum(axis=1) / (2 * prior_std**2))


def _derivatives(parameters: Numbers, counts: Numbers, features: Numbers, prior_std: float) -> tuple[Numbers, Numbers]:
    """Gradient [draws, parameters], and the negative Hessian [draws, parameters, parameters]."""
    logits = np.einsum("pod,bd->bpo", features, parameters)
    shares = np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))
    totals = counts.sum(axis=-1)
    slope = np.einsum("bpo,pod->bd", counts - totals[..., None] * shares, features) - parameters / prior_std**2
    mean = np.einsum("bpo,pod->bpd", shares, features)
    curvature = np.einsum("bp,bpo,pod,poe->bde", totals, shares, features, features, optimize=True)
    curvature -= np.einsum("bp,bpd,bpe->bde", totals, mean, mean, optimize=True)
    return slope, curvature + np.eye(features.shape[-1]) / prior_std**2


def _cells(
    outcomes: Sequence[Outcome], names: Sequence[str], pairs: Sequence[tuple[int, int]]
) -> tuple[Numbers, list[str], list[str]]:
    """One-hot votes [votes, pairs, 3], with their prompts and raters."""
    number = {name: index for index, name in enumerate(names)}
    row = {pair: index for index, pair in enumerate(pairs)}
    cells = np.zeros((len(outcomes), len(pairs), 3))
    for index, outcome in enumerate(outcomes):
        a, b = number[outcome.first], number[outcome.second]
        if a == b:
            raise ValueError(f"got a vote of {outcome.first!r} against itself; leave such votes out")
        column = {"first": 0, "second": 1, "tie": 2}[outcome.winner]
        if a > b and column < 2:
            column = 1 - column
        cells[index, row[min(a, b), max(a, b)], column] = 1
    return cells, [o.prompt for o in outcomes], [o.rater for o in outcomes]


def _cluster_weights(prompts: Sequence[str], raters: Sequence[str], num_resamples: int, seed: int) -> Numbers | None:
    """[resamples, votes]: how often a vote's prompt was drawn, times how often its rater was; None if all share both.

    With one rater the interval speaks for that rater alone, with one prompt for that prompt.
    """
    generator = np.random.default_rng(seed)
    weights: Numbers | None = None
    for labels in (prompts, raters):
        kinds, number = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
        if len(kinds) > 1:
            drawn = generator.multinomial(len(kinds), np.full(len(kinds), 1 / len(kinds)), size=num_resamples)
            own = drawn[:, number].astype(np.float64)
            weights = own if weights is None else weights * own
    return weights
