"""Clips of given sizes to batches that are nearly full, in nearly the order in which they come."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence


def pack_densely(tokens: Sequence[int], capacity: int, *, lookahead: int) -> list[list[int]]:
    """Batches of positions in `tokens`, each with at most `capacity` tokens, the last two about equally full.

    A batch takes clips in their order until the next does not fit; the rest is filled with the one or two clips, of
    the next `lookahead` that wait, that leave least room. So none waits long: the first that waits opens the next.
    """
    waiting = _Waiting(tokens, lookahead)
    batches: list[list[int]] = []
    while (first := waiting.first()) is not None:
        batch = [first]
        room = capacity - waiting.pop(first)
        while (following := waiting.first()) is not None and tokens[following] <= room:
            batch.append(following)
            room -= waiting.pop(following)
        while filling := waiting.best(room):
            batch += filling
            room -= sum(waiting.pop(position) for position in filling)
        batches.append(batch)
    return _with_even_end(batches, tokens, capacity)


class _Waiting:
    """The next clips that wait, by size."""

    def __init__(self, tokens: Sequence[int], lookahead: int) -> None:
        self._tokens = tokens
        self._lookahead = lookahead
        self._is_taken = bytearray(len(tokens))
        self._first = self._seen = 0
        self._by_size: list[tuple[int, int]] = []
        self._look()

    def first(self) -> int | None:
        while self._first < len(self._tokens) and self._is_taken[self._first]:
            self._first += 1
        return self._first if self._first < len(self._tokens) else None

    def pop(self, position: int) -> int:
        """Takes a clip; says how many tokens it has."""
        tokens = self._tokens[position]
        self._is_taken[position] = 1
        del self._by_size[bisect_right(self._by_size, (tokens, -position)) - 1]
        self._look()
        return tokens

    def best(self, room: int) -> list[int]:
        """The one or two clips that leave least of the room, one rather than two, early rather than late."""
        waiting = self._by_size
        end = bisect_right(waiting, (room, 1))
        if not end:
            return []
        largest, chosen = waiting[end - 1][0], [waiting[end - 1]]
        low, high = 0, end - 1
        while low < high and largest < room:
            both = waiting[low][0] + waiting[high][0]
            if both > room:
                high -= 1
            else:
                if both > largest:
                    largest, chosen = both, [waiting[low], waiting[high]]
                low += 1
        return [-position for _, position in chosen]

    def _look(self) -> None:
        while len(self._by_size) < self._lookahead and self._seen < len(self._tokens):
            insort(self._by_size, (self._tokens[self._seen], -self._seen))
            self._seen += 1


def _with_even_end(batches: list[list[int]], tokens: Sequence[int], capacity: int) -> list[list[int]]:
    """The last batch may hold a single clip: the last two share their clips, largest first to the emptier."""
    if len(batches) < 2:
        return batches
    shared: tuple[list[int], list[int]] = ([], [])
    sums = [0, 0]
    for position in sorted(batches[-2] + batches[-1], key=lambda position: (-tokens[position], position)):
        side = int(sums[1] < sums[0])
        shared[side].append(position)
        sums[side] += tokens[position]
    return batches if max(sums) > capacity else [*batches[:-2], *shared]
