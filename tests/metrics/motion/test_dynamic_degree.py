"""The rules by hand."""

from __future__ import annotations

import pytest
import torch

from hh_train.metrics.motion.dynamic_degree import (
    compared_frames,
    flow_speed,
    is_dynamic,
    is_static,
    static_pairs,
    strongest_flow,
    strongest_static_flow,
)


@pytest.mark.parametrize(("rate", "step"), [(25.0, 3), (24.0, 3), (30.0, 4), (16.0, 2), (8.0, 1), (4.0, 1), (60.0, 8)])
def test_about_eight_frames_a_second_are_compared(rate: float, step: int) -> None:
    assert list(compared_frames(20, rate)) == list(range(0, 20, step))


def test_five_seconds_at_25_fps_are_42_frames_of_which_10_pairs_must_move() -> None:
    frames = compared_frames(125, 25.0)
    assert len(frames) == 42
    for moving, answer in ((9, False), (10, True)):
        strengths = [6.1] * moving + [5.9] * (41 - moving)
        assert is_dynamic(strengths, short_side=256, frames_per_second=25.0) is answer
    assert not is_dynamic([6.1] * 41, short_side=512, frames_per_second=25.0)
    assert is_dynamic([12.1] * 41, short_side=512, frames_per_second=25.0)


def test_a_slower_film_moves_further_between_frames() -> None:
    assert is_dynamic([7.0] * 9, short_side=256, frames_per_second=8.0)
    assert not is_dynamic([7.0] * 9, short_side=256, frames_per_second=4.0)
    assert is_dynamic([12.5] * 9, short_side=256, frames_per_second=4.0)


@pytest.mark.parametrize("count", [0, 1])
def test_the_rule_says_nothing_of_one_or_two_frames(count: int) -> None:
    """It would call every such clip dynamic."""
    with pytest.raises(ValueError, match="at least 3"):
        is_dynamic([0.0] * count, short_side=256, frames_per_second=25.0)


def test_the_strongest_flow_is_the_mean_of_the_longest_vectors() -> None:
    flow = torch.zeros(2, 10, 10)
    flow[0, 0, :5], flow[1, 0, :5] = 3.0, 4.0
    flow[0, 1, 0] = 1.0
    assert strongest_flow(flow) == pytest.approx(5.0)
    assert strongest_static_flow(flow) == pytest.approx(5.0)
    flow[0, 0, 0], flow[1, 0, 0] = 30.0, 40.0
    assert strongest_flow(flow) == pytest.approx((4 * 5 + 50) / 5)
    assert strongest_static_flow(flow) == pytest.approx((5 + 50) / 2)
    assert strongest_flow(torch.ones(2, 2, 2)) == 0.0


def test_the_static_filter_looks_at_neighbors_and_at_both_ends() -> None:
    assert static_pairs(4) == [(0, 1), (1, 2), (2, 3), (0, 3), (3, 0)]
    still = [0.5] * 31
    assert is_static([*still, 1.0, 1.0], short_side=256)
    assert is_static([*still[:27], *[3.5] * 4, 1.0, 1.0], short_side=256)
    assert not is_static([*still[:26], *[3.5] * 5, 1.0, 1.0], short_side=256)
    assert is_static([*still, 23.9, 1.0], short_side=256)
    assert not is_static([*still, 1.0, 24.1], short_side=256)
    with pytest.raises(ValueError, match="two frames"):
        is_static([0.0], short_side=256)


def test_the_continuous_degree_is_a_speed() -> None:
    """A step of 3 frames at 25 a second."""
    assert flow_speed([0.3, 0.6], num_frames=7, frames_per_second=25.0) == pytest.approx(0.45 * 25 / 3)
    with pytest.raises(ValueError, match="long enough"):
        flow_speed([], num_frames=2, frames_per_second=25.0)
