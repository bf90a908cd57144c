"""Strengths are those that the votes were drawn from; intervals hold what they promise, with votes in clusters too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from hh_train.arena.rating import PRIOR_STD, Outcome, Rating, fit_strengths, rank

PAIRS = list(combinations(range(4), 2))
STRENGTHS = np.array([0.9, 0.3, -0.2, -1.0])


def vote(first: str, second: str, winner: str, prompt: str = "p", rater: str = "r") -> Outcome:
    return Outcome(first=first, second=second, winner=winner, prompt=prompt, rater=rater)


def drawn(num_votes: int, seed: int, *, log_tie: float = -math.inf) -> list[Outcome]:
    """Votes of Davidson's model, each on a prompt of its own."""
    generator = np.random.default_rng(seed)
    names, outcomes = "abcd", []
    for index in range(num_votes):
        i, j = PAIRS[index % len(PAIRS)]
        weights = np.exp([STRENGTHS[i], STRENGTHS[j], log_tie + (STRENGTHS[i] + STRENGTHS[j]) / 2])
        winner = generator.choice(["first", "second", "tie"], p=weights / weights.sum())
        outcomes.append(vote(names[i], names[j], str(winner), prompt=f"{index}"))
    return outcomes


def by_name(ratings: Sequence[Rating]) -> dict[str, Rating]:
    return {rating.system: rating for rating in ratings}


def points(ratings: Sequence[Rating]) -> np.ndarray:
    known = by_name(ratings)
    return np.array([known[name].points for name in sorted(known)])


@pytest.mark.parametrize(("tie_rule", "log_tie"), [("half", -math.inf), ("davidson", -math.inf), ("davidson", 0.3)])
def test_known_strengths_are_recovered(tie_rule: str, log_tie: float) -> None:
    ranking = rank(drawn(12_000, 0, log_tie=log_tie), "abcd", tie_rule=tie_rule, num_resamples=20)
    assert points(ranking.ratings) == pytest.approx(1000 + STRENGTHS * 400 / math.log(10), abs=15)
    assert [rating.system for rating in ranking.ratings] == list("abcd")


def test_half_a_win_for_a_tie_brings_strengths_together() -> None:
    votes = drawn(6_000, 1, log_tie=0.3)
    half, davidson = (rank(votes, "abcd", tie_rule=rule, num_resamples=2).ratings for rule in ("half", "davidson"))
    assert points(half).std() < 0.9 * points(davidson).std()


@pytest.mark.parametrize("tie_rule", ["half", "davidson"])
def test_the_fit_is_the_maximum_that_another_optimizer_finds(tie_rule: str) -> None:
    counts = np.random.default_rng(0).integers(0, 30, size=(3, len(PAIRS), 3)).astype(float)

    def loss(parameters: np.ndarray, table: np.ndarray) -> float:
        value = (parameters**2).sum() / (2 * PRIOR_STD**2)
        for (i, j), (first, second, tie) in zip(PAIRS, table, strict=True):
            s, u = parameters[i], parameters[j]
            if tie_rule == "half":
                total = np.logaddexp(s, u)
                value -= (first + tie / 2) * (s - total) + (second + tie / 2) * (u - total)
            else:
                middle = parameters[4] + (s + u) / 2
                total = np.logaddexp.reduce([s, u, middle])
                value -= first * (s - total) + second * (u - total) + tie * (middle - total)
        return float(value)

    found = fit_strengths(counts, PAIRS, 4, tie_rule=tie_rule)
    for strengths, table in zip(found, counts, strict=True):
        best = minimize(loss, np.zeros(4 + (tie_rule == "davidson")), args=(table,), method="L-BFGS-B", tol=1e-12)
        assert strengths == pytest.approx(best.x[:4], abs=1e-4)


def test_two_systems_have_the_closed_form() -> None:
    counts = np.array([[[60.0, 40.0, 0.0]]])
    exact = math.log(60 / 40)
    free = fit_strengths(counts, [(0, 1)], 2, prior_std=1e6)[0]
    assert free[0] - free[1] == pytest.approx(exact, abs=1e-8)
    weak = fit_strengths(counts, [(0, 1)], 2)[0]
    assert 0.1 < (exact - (weak[0] - weak[1])) * 400 / math.log(10) < 0.3  # what the prior takes, in points


@pytest.mark.parametrize("tie_rule", ["half", "davidson"])
def test_nothing_but_ties_is_no_difference(tie_rule: str) -> None:
    ranking = rank([vote("a", "b", "tie", prompt=str(i)) for i in range(50)], "ab", tie_rule=tie_rule)
    assert points(ranking.ratings) == pytest.approx([1000, 1000], abs=1e-6)
    assert ranking.gaps[0].in_words == "cannot tell them apart with 50 votes"


@pytest.mark.parametrize("tie_rule", ["half", "davidson"])
def test_a_system_that_wins_every_vote_has_a_finite_rating(tie_rule: str) -> None:
    few, many = (
        points(rank([vote("a", "b", "first", prompt=str(i)) for i in range(n)], "ab", tie_rule=tie_rule).ratings)
        for n in (10, 1000)
    )
    assert 300 < few[0] - few[1] < many[0] - many[1] < 4000


@pytest.mark.parametrize(("num_votes", "decides"), [(1, False), (3, False), (5, False), (12, True), (50, True)])
def test_a_few_votes_for_one_side_do_not_decide(num_votes: int, decides: bool) -> None:
    gap = rank([vote("a", "b", "first", str(i), str(i)) for i in range(num_votes)], "ab").gaps[0]
    assert (gap.in_words == "a is preferred") == decides
    ties = rank([vote("a", "b", "tie", str(i), str(i)) for i in range(num_votes)], "ab").gaps[0]
    assert num_votes == 1 or ties.high - ties.low > 100 * math.sqrt(50 / num_votes)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from(["half", "davidson"]))
def test_swapping_labels_negates_and_sides_do_not_matter(seed: int, tie_rule: str) -> None:
    generator = np.random.default_rng(seed)
    winners = [str(w) for w in generator.choice(["first", "second", "tie"], size=30, p=[0.5, 0.3, 0.2])]
    votes = [vote("a", "b", winner, prompt=str(i % 7)) for i, winner in enumerate(winners)]
    other = {"first": "second", "second": "first", "tie": "tie"}
    swapped = [vote("a", "b", other[v.winner], v.prompt) for v in votes]
    turned = [vote("b", "a", other[v.winner], v.prompt) for v in votes]
    ratings, negated, same = (
        points(rank(some, "ab", tie_rule=tie_rule, num_resamples=10).ratings) for some in (votes, swapped, turned)
    )
    assert ratings - 1000 == pytest.approx(1000 - negated, abs=1e-6)
    assert same == pytest.approx(ratings, abs=1e-9)
    assert winners.count("first") == winners.count("second") or abs(ratings[0] - 1000) > 1


def clustered(generator: np.random.Generator, *, num_prompts: int, num_raters: int, spread: float) -> list[Outcome]:
    """Votes between equal systems, where every prompt and every rater leans to one of them."""
    lean_of_prompt, lean_of_rater = (spread * generator.standard_normal(n) for n in (num_prompts, num_raters))
    votes = []
    for p in range(num_prompts):
        for r in range(num_raters):
            wins = generator.random() < 1 / (1 + math.exp(-lean_of_prompt[p] - lean_of_rater[r]))
            votes.append(vote("a", "b", "first" if wins else "second", str(p), str(r)))
    return votes


def test_intervals_cover_when_prompts_and_raters_lean_and_naive_ones_do_not() -> None:
    generator = np.random.default_rng(0)
    covered = naive = 0
    num_trials = 100
    for trial in range(num_trials):
        votes = clustered(generator, num_prompts=20, num_raters=12, spread=0.8)
        gap = rank(votes, "ab", num_resamples=200, seed=trial).gaps[0]
        sign = 1 if gap.first == "a" else -1
        assert gap.low is not None and gap.high is not None
        covered += gap.low <= 0 <= gap.high
        alone = [vote(v.first, v.second, v.winner, prompt=str(i)) for i, v in enumerate(votes)]
        plain = rank(alone, "ab", num_resamples=200, seed=trial).gaps[0]
        assert plain.low is not None and plain.high is not None
        naive += plain.low <= 0 <= plain.high
        assert sign * gap.points == pytest.approx(sign * plain.points)
    assert covered / num_trials > 0.9
    assert naive / num_trials < 0.8


def test_intervals_of_independent_votes_cover_the_truth() -> None:
    exact = (STRENGTHS[0] - STRENGTHS[3]) * 400 / math.log(10)
    covered = 0
    for seed in range(80):
        gaps = rank(drawn(300, seed), "abcd", num_resamples=200, seed=seed).gaps
        gap = next(g for g in gaps if {g.first, g.second} == {"a", "d"})
        low, high = (gap.low, gap.high) if gap.first == "a" else (-gap.high, -gap.low)
        covered += low <= exact <= high
    assert 0.88 <= covered / 80 <= 0.99


def test_more_votes_narrow_the_interval_and_decide() -> None:
    few, many = (
        next(gap for gap in rank(drawn(n, 3), "abcd").gaps if {gap.first, gap.second} == {"b", "c"}) for n in (60, 6000)
    )
    assert many.high - many.low < 0.3 * (few.high - few.low)
    assert "cannot tell" in few.in_words and few.num_votes == 10
    assert many.in_words == "b is preferred"


def test_votes_by_one_rater_on_one_prompt_have_no_interval() -> None:
    ranking = rank([vote("a", "b", "first")] * 5, "ab")
    assert ranking.ratings[0].low is None
    assert ranking.gaps[0].in_words.startswith("no interval")
    assert (ranking.num_prompts, ranking.num_raters) == (1, 1)


def test_votes_are_counted_by_system() -> None:
    votes = [vote("a", "b", "first"), vote("b", "a", "tie", "q"), vote("c", "a", "second", "q"), vote("b", "c", "tie")]
    known = by_name(rank(votes, "abc").ratings)
    assert [(known[n].num_votes, known[n].num_wins, known[n].num_ties) for n in "abc"] == [
        (3, 2, 1),
        (3, 0, 2),
        (2, 0, 1),
    ]


@pytest.mark.parametrize(
    ("outcomes", "systems", "fault"),
    [
        ([], "a", "two or more"),
        ([vote("a", "z", "tie")], "ab", "'z'"),
        ([vote("a", "a", "tie")], "ab", "against itself"),
    ],
)
def test_votes_that_mean_nothing_are_refused(outcomes: list[Outcome], systems: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        rank(outcomes, systems)
