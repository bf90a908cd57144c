"""The endless order in which the clips of several sets come, found at any place without counting up to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hh_train.data.loading.clip_index import ClipIndex, digest_of, scrambled

Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Draws:
    """Clips in the order in which they come."""

    set_number: Integers
    clip: Integers
    """Row of the set's index."""
    turn: NDArray[np.uint64]
    """Tells apart the times that a clip comes: what is drawn for a clip depends on it."""

    def __len__(self) -> int:
        return len(self.clip)

    def __getitem__(self, rows: slice | NDArray[np.bool_]) -> Draws:
        return Draws(set_number=self.set_number[rows], clip=self.clip[rows], turn=self.turn[rows])


class ShuffledSet:
    """One set, pass after pass; each pass has every clip as often as its weight says, in an order of its own.

    The shards of a pass come in random order, in groups of `shards_in_hand` whose clips are mixed. A weight of 2 means
    twice in every pass, one of 0.25 once in four passes (which four differs from clip to clip).

    Args:
        index: the clips.
        seed: of the order.
        shards_in_hand: shards whose clips are mixed with one another.
        weights: of the clips; None is 1 for all.

    Raises:
        ValueError: weights that are not one for each clip, are negative or add up to less than 1.
    """

    def __init__(
        self, index: ClipIndex, *, seed: str, shards_in_hand: int, weights: NDArray[np.float64] | None = None
    ) -> None:
        self.index = index
        self.seed = seed
        self.shards_in_hand = shards_in_hand
        self.weights = np.ones(len(index)) if weights is None else weights
        if len(self.weights) != len(index) or not (self.weights >= 0).all() or not self.weights.sum() >= 1:
            raise ValueError(
                f"got {len(self.weights)} clip weights from {self.weights.min(initial=0.0)} on for {len(index)} clips; "
                "wanted one for each, none below 0, with a sum of 1 or more"
            )
        self._phase = (scrambled(index.columns.hash, seed, "phase") >> np.uint64(44)).astype(np.float64) * 2.0**-20
        self._passes: dict[int, tuple[Integers, NDArray[np.uint64]]] = {}

    @property
    def length(self) -> float:
        """Clips of an average pass."""
        return float(self.weights.sum())

    def take(self, start: int, stop: int) -> tuple[Integers, NDArray[np.uint64]]:
        """Clips and turns from one place in the endless order to another."""
        clips, turns = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint64)
        number = self._pass_at(start) if stop > start else 0
        while start < stop:
            first = self._start_of(number)
            of_pass = self._pass(number)
            clips = np.concatenate([clips, of_pass[0][start - first : stop - first]])
            turns = np.concatenate([turns, of_pass[1][start - first : stop - first]])
            number += 1
            start = self._start_of(number)
        return clips, turns

    def _counts_before(self, number: int) -> Integers:
        """How often each clip comes in the passes before: the sum stays within 1 of weight x passes."""
        return np.floor(self.weights * number + self._phase).astype(np.int64)

    def _start_of(self, number: int) -> int:
        return int(self._counts_before(number).sum())

    def _pass_at(self, place: int) -> int:
        number = int(place / self.length)
        while self._start_of(number) > place:
            number -= 1
        while self._start_of(number + 1) <= place:
            number += 1
        return number

    def _pass(self, number: int) -> tuple[Integers, NDArray[np.uint64]]:
        """Remembers two: an epoch may end in one and begin in another."""
        if number not in self._passes:
            for old in list(self._passes)[:-1]:
                del self._passes[old]
            self._passes[number] = self._shuffled(number)
        return self._passes[number]

    def _shuffled(self, number: int) -> tuple[Integers, NDArray[np.uint64]]:
        counts = self._counts_before(number + 1) - self._counts_before(number)
        clips = np.repeat(np.arange(len(counts)), counts)
        copies = np.arange(len(clips)) - np.repeat(np.cumsum(counts) - counts, counts)
        turns = (np.uint64(number) << np.uint64(24)) + copies.astype(np.uint64)
        num_shards = len(self.index.shards)
        by_chance = np.argsort(scrambled(np.arange(num_shards, dtype=np.uint64), self.seed, number), kind="stable")
        group = np.empty(num_shards, dtype=np.int64)
        group[by_chance] = np.arange(num_shards) // self.shards_in_hand
        chance = scrambled(self.index.columns.hash[clips] + turns, self.seed, "clips")
        order = np.lexsort((chance, group[self.index.shard[clips]]))
        return clips[order], turns[order]


def proportions(sets: Sequence[ShuffledSet], shares: Sequence[float] | None, num_clips: int | None) -> list[int]:
    """Clips of each set in an epoch of `num_clips` (None: a pass over all sets); `shares` None goes by their sizes."""
    lengths = [one.length for one in sets]
    weights = lengths if shares is None else list(shares)
    total = round(sum(lengths)) if num_clips is None else num_clips
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(number) for number in exact]
    by_remainder = sorted(range(len(sets)), key=lambda i: counts[i] - exact[i])
    for number in by_remainder[: total - sum(counts)]:
        counts[number] += 1
    return counts


def interleaved(
    sets: Sequence[ShuffledSet], starts: Sequence[int], counts: Sequence[int], *, seed: str, epoch: int
) -> Draws:
    """`counts` clips of each set from `starts` on, spread so evenly that any stretch has the stated proportions."""
    taken = [one.take(start, start + count) for one, start, count in zip(sets, starts, counts, strict=True)]
    places = []
    for number, count in enumerate(counts):
        offset = digest_of(seed, epoch, "interleave", number) * 2.0**-64
        places.append((np.arange(count) + offset) / max(count, 1))
    order = np.argsort(np.concatenate(places), kind="stable")
    return Draws(
        set_number=np.repeat(np.arange(len(sets)), counts)[order],
        clip=np.concatenate([clips for clips, _ in taken])[order],
        turn=np.concatenate([turns for _, turns in taken])[order],
    )
