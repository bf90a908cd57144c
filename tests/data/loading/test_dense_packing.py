"""Every clip once, within the budget, and none waiting long."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from hh_train.data.loading.dense_packing import pack_densely


@given(tokens=st.lists(st.integers(1, 100), max_size=80), lookahead=st.integers(1, 20))
def test_every_clip_is_in_one_batch_within_the_budget(tokens: list[int], lookahead: int) -> None:
    batches = pack_densely(tokens, 100, lookahead=lookahead)
    assert sorted(position for batch in batches for position in batch) == list(range(len(tokens)))
    assert all(0 < sum(tokens[position] for position in batch) <= 100 for batch in batches)
    assert batches == pack_densely(tokens, 100, lookahead=lookahead)


@given(tokens=st.lists(st.integers(1, 100), min_size=1, max_size=80))
def test_the_first_that_waits_opens_the_next_batch(tokens: list[int]) -> None:
    batches = pack_densely(tokens, 100, lookahead=10)
    taken: set[int] = set()
    for batch in batches[:-2]:
        assert batch[0] == min(set(range(len(tokens))) - taken)
        taken |= set(batch)


def test_a_gap_is_filled_with_what_fits_best() -> None:
    # 60 leaves 40: not the 50 that follows, nor the 30, but 25 and 15 together
    assert pack_densely([60, 50, 30, 25, 15, 90, 90], 100, lookahead=6)[0] == [0, 4, 3]
    assert pack_densely([60, 50, 30, 25, 15, 90, 90], 100, lookahead=3)[0] == [0, 2]
    assert pack_densely([60, 50, 40, 40, 1, 90, 90], 100, lookahead=6)[0] == [0, 2]  # one rather than two, the earlier


def test_the_end_is_even() -> None:
    batches = pack_densely([10] * 11, 100, lookahead=5)
    assert sorted(map(len, batches)) == [5, 6]
    assert pack_densely([], 100, lookahead=5) == []


def test_batches_are_nearly_full() -> None:
    draw = random.Random(0)
    tokens = [draw.choice((500, 1500, 3000, 6000)) + draw.randint(40, 640) for _ in range(5000)]
    batches = pack_densely(tokens, 16_384, lookahead=256)
    assert sum(tokens) / (16_384 * len(batches)) > 0.985
