"""What the stages share that train a judge of clips: its finished folder is kept, and its floor is printed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from hh_train.metrics.clip_metric import Score
from hh_train.metrics.one_cycle import TrainingProgress

FLOOR_FILE = "floor.json"
SPLITS = ("train", "validation", "test")
HELD_OUT = ("validation", "test")
_NUM_LISTED = 10


def kept_floor(folder: Path, console: Console) -> dict[str, Any] | None:
    """The floor of a folder that is finished; None where the judge is still to be trained."""
    path = folder / FLOOR_FILE
    if not path.is_file():
        return None
    console.print(f"{folder} is finished and kept; delete it to train again", markup=False, soft_wrap=True)
    floor: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return floor


def write_judge(folder: Path, save: Callable[[Path], object], floor: Mapping[str, Any]) -> None:
    """Writes the judge with its floor; the folder appears complete or not at all."""
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    save(unfinished)
    (unfinished / FLOOR_FILE).write_text(json.dumps(floor, indent=1, ensure_ascii=False), encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    unfinished.rename(folder)


@contextmanager
def training_bar(name: str) -> Iterator[Callable[[TrainingProgress], None]]:
    """A bar on the terminal, and what moves it."""
    columns = (
        TextColumn(name),
        BarColumn(),
        TextColumn("step {task.fields[step]}  loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, refresh_per_second=1) as progress:
        task = progress.add_task("", total=1.0, step=0, loss=float("nan"))

        def report(now: TrainingProgress) -> None:
            progress.update(task, completed=now.fraction, step=now.step, loss=now.loss)

        yield report


def reading_bar(console: Console) -> Progress:
    """Of clips that are read."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def print_usable(
    console: Console, split: str, *, used: int, chosen: int, having: str, left_out: Mapping[str, str]
) -> None:
    """How many clips of a split can be used, and why the first of the others cannot."""
    console.print(f"{split}: {used} of {chosen} clips have {having}")
    for key, reason in list(left_out.items())[:_NUM_LISTED]:
        console.print(f"  left out {key}: {reason}", markup=False, soft_wrap=True)


def first_reasons(left_out: Mapping[str, str]) -> str:
    """For an error message."""
    return "; ".join(f"{key}: {reason}" for key, reason in list(left_out.items())[:3])


def print_floor(console: Console, floor: Mapping[str, Any], *, title: str, rows: str, value: str) -> None:
    """The scores of the held-out splits; names that end with `frames` are no shares."""
    table = Table(title=title, title_justify="left")
    for column in ("split", rows, value, "95 % interval", "n"):
        table.add_column(column, justify="left" if column in ("split", rows) else "right")
    for split in HELD_OUT:
        for name, fields in floor[split].items():
            score = Score(**fields)
            if score.mean is not None and score.low is not None and score.high is not None:
                form = "{:.2f}" if name.endswith("frames") else "{:.1%}"
                interval = f"{form.format(score.low)} to {form.format(score.high)}"
                table.add_row(split, name.replace("_", " "), form.format(score.mean), interval, str(score.num_clips))
    console.print(table)
