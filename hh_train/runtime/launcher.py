"""Which of several processes this is, for work that is shared out without a process group."""

from __future__ import annotations

import os
from collections.abc import Mapping


def launched_process(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """The number of this process and how many there are; (0, 1) when it was started alone.

    From what `torchrun` and `accelerate launch` set; else from SLURM: the tasks of a job step (`srun`), those of an
    array (`sbatch --array`), or both, each task of an array having its steps. The array must be whole: a part of it
    counts as an array of its own.

    Raises:
        ValueError: the numbers contradict each other.
    """
    if environment.get("RANK") and environment.get("WORLD_SIZE"):
        process, count = int(environment["RANK"]), int(environment["WORLD_SIZE"])
    else:
        number, tasks = _array_task(environment)
        step, steps = _step_task(environment)
        process, count = number * steps + step, tasks * steps
    if not 0 <= process < count:
        raise ValueError(f"the launcher says that this is process {process} of {count}; wanted 0 to {count - 1}")
    return process, count


def _step_task(environment: Mapping[str, str]) -> tuple[int, int]:
    """`SLURM_NTASKS` is set in a batch script too, which runs once: only a step says that there are so many of us."""
    tasks = environment.get("SLURM_STEP_NUM_TASKS")
    return (int(environment.get("SLURM_PROCID", "0")), int(tasks)) if tasks else (0, 1)


def _array_task(environment: Mapping[str, str]) -> tuple[int, int]:
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN")
    if not all(environment.get(name) for name in names):
        return 0, 1
    number, count, first = (int(environment[name]) for name in names)
    return (number - first) // int(environment.get("SLURM_ARRAY_TASK_STEP") or 1), count
