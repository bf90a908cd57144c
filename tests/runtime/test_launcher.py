"""What launchers tell a process about itself."""

from __future__ import annotations

import pytest

from hh_train.runtime.launcher import launched_process

ARRAY = {"SLURM_ARRAY_TASK_ID": "12", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "10"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, (3, 8)),
        ({"RANK": "0"}, (0, 1)),
        ({"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8"}, (5, 8)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, (0, 1)),  # in a batch script, outside a step
        (ARRAY, (2, 4)),
        ({**ARRAY, "SLURM_ARRAY_TASK_ID": "16", "SLURM_ARRAY_TASK_STEP": "2"}, (3, 4)),
        ({**ARRAY, "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}, (5, 8)),
        ({**ARRAY, "RANK": "1", "WORLD_SIZE": "2"}, (1, 2)),
    ],
)
def test_the_number_of_a_process(environment: dict[str, str], expected: tuple[int, int]) -> None:
    assert launched_process(environment) == expected


def test_contradictions_are_told() -> None:
    with pytest.raises(ValueError, match="process 4 of 4; wanted 0 to 3"):
        launched_process({"RANK": "4", "WORLD_SIZE": "4"})
