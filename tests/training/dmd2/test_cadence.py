"""Counts of steps."""

from __future__ import annotations

import pytest

from hh_train.training.dmd2.cadence import Cadence


def walk(cadence: Cadence, num_batches: int) -> list[tuple[bool, bool]]:
    """For each batch: whether it belongs to a turn of the student, and whether it ends its turn."""
    seen = []
    for _ in range(num_batches):
        trains_student = cadence.trains_student
        ends = cadence.count_batch()
        if ends:
            cadence.count_turn()
        seen.append((trains_student, ends))
    return seen


@pytest.mark.parametrize(("ratio", "batches"), [(1, 1), (5, 1), (10, 3), (3, 2)])
def test_every_nth_turn_is_the_students_whatever_a_turn_takes(ratio: int, batches: int) -> None:
    cadence = Cadence(critic_steps_per_student_step=ratio, batches_per_turn=batches)
    seen = walk(cadence, 2 * ratio * batches)
    assert (cadence.student_steps, cadence.critic_steps) == (2, 2 * ratio)
    assert [ends for _, ends in seen] == ([False] * (batches - 1) + [True]) * (2 * ratio)
    assert [student for student, _ in seen] == ([False] * (ratio - 1) * batches + [True] * batches) * 2


def test_it_goes_on_in_the_same_phase() -> None:
    whole, first = (Cadence(critic_steps_per_student_step=4, batches_per_turn=2) for _ in range(2))
    expected = walk(whole, 22)
    walk(first, 12)
    resumed = Cadence(critic_steps_per_student_step=4, batches_per_turn=2)
    resumed.load_state_dict(first.state_dict())
    assert walk(resumed, 10) == expected[12:]
    assert resumed == whole


def test_another_ratio_or_a_turn_cut_in_two() -> None:
    cadence = Cadence(critic_steps_per_student_step=4, batches_per_turn=2)
    saved = cadence.state_dict()
    with pytest.raises(ValueError, match="between two turns"):
        Cadence(critic_steps_per_student_step=5).load_state_dict(saved)
    cadence.count_batch()
    with pytest.raises(ValueError, match="TurnCheckpoint"):
        Cadence(critic_steps_per_student_step=4, batches_per_turn=2).load_state_dict(cadence.state_dict())


@pytest.mark.parametrize("fields", [{"critic_steps_per_student_step": 0}, {"batches_per_turn": 0}])
def test_numbers_below_one(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Cadence(**({"critic_steps_per_student_step": 1} | fields))
