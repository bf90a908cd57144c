"""Where clips are taken in shots."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hh_train.data.selection.buckets import Buckets
from hh_train.data.selection.cuts import Shot
from hh_train.data.selection.windows import WindowLengths, WindowPlan, count_frames, shots_within, window_key


def shot(start: float, end: float) -> Shot:
    return Shot(start_seconds=float(start), end_seconds=float(end))


def lengths(*frames: int) -> WindowLengths:
    buckets = Buckets(sizes=((64, 64),), frames=frames)
    return WindowLengths(buckets=buckets, multiple=4, shortest=5, longest=101)


def test_head_takes_one_window() -> None:
    assert WindowPlan().offsets(500, 25) == [0]


@pytest.mark.parametrize(
    ("available", "count", "wanted"),
    [(100, 4, [0, 25, 50, 75]), (101, 2, [0, 76]), (60, 4, [0, 35]), (25, 4, [0]), (49, 2, [0])],
)
def test_uniform_windows_reach_from_the_start_to_the_end(available: int, count: int, wanted: list[int]) -> None:
    assert WindowPlan(placement="uniform", count=count).offsets(available, 25) == wanted


@given(st.integers(25, 3000), st.integers(1, 50))
def test_uniform_windows_do_not_overlap_and_stay_inside(available: int, count: int) -> None:
    offsets = WindowPlan(placement="uniform", count=count).offsets(available, 25)
    assert 1 <= len(offsets) <= count
    assert offsets[0] == 0
    assert offsets[-1] + 25 <= available
    assert all(after - before >= 25 for before, after in pairwise(offsets))


def test_sliding_windows_follow_each_other_or_overlap() -> None:
    assert WindowPlan(placement="sliding").offsets(80, 25) == [0, 25, 50]
    assert WindowPlan(placement="sliding", stride_frames=10).offsets(49, 25) == [0, 10, 20]


def test_shots_are_grouped() -> None:
    shots = [shot(i, i + 1) for i in range(5)]
    assert [len(group) for group in WindowPlan().groups(shots)] == [1] * 5
    assert [len(group) for group in WindowPlan(max_shots=2).groups(shots)] == [2, 2, 1]


@pytest.mark.parametrize("arguments", [{"count": 0}, {"stride_frames": 0}, {"max_shots": 0}])
def test_plans_that_make_no_sense_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="wanted"):
        WindowPlan(**arguments)  # type: ignore[arg-type]


def test_lengths_are_those_of_codecs_or_of_buckets() -> None:
    assert [lengths().fitting(n) for n in (4, 5, 8, 9, 100, 101, 900)] == [None, 5, 5, 9, 97, 101, 101]
    assert (lengths().least, lengths().most) == (5, 101)
    assert [lengths(49, 25).fitting(n) for n in (24, 25, 48, 900)] == [None, 25, 25, 49]
    assert (lengths(49, 25).least, lengths(49, 25).most) == (25, 49)


@given(st.integers(1, 5000), st.sampled_from([24.0, 25.0, 30.0]))
def test_frames_are_counted_in_stretches_of_whole_frames(count: int, rate: float) -> None:
    assert count_frames(count / rate, rate) == count
    assert count_frames((count + 0.4) / rate, rate) == count
    assert count_frames((count - 0.4) / rate, rate) == count
    assert count_frames(0.0, rate) == 0


def test_shots_are_cut_to_a_window() -> None:
    shots = [shot(0, 1.98), shot(2, 3.98), shot(4, 6)]
    assert shots_within(shots, 1.0, 4.5) == (shot(1, 1.98), shot(2, 3.98), shot(4, 4.5))
    assert shots_within(shots, 2.0, 3.0) == (shot(2, 3),)


def test_keys_sort_by_time_and_have_no_dots() -> None:
    keys = [window_key("a", seconds) for seconds in (0.0, 0.04, 9.96, 3600.5)]
    assert keys == sorted(keys)
    assert keys[1] == "a_000000040"
