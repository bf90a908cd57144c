"""Trains the data set's own sync expert on footage, and measures its floor: its error on known shifts of real clips."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from hh_train.data.footage.files import FootageFile, find_footage
from hh_train.data.media.files import MediaReader
from hh_train.metrics.clip_metric import Score
from hh_train.metrics.faces.crops import mouth_crops
from hh_train.metrics.faces.track import FaceFinder
from hh_train.metrics.measurer import Sample
from hh_train.metrics.sound.tracks import SAMPLES_PER_SECOND, require_sound
from hh_train.metrics.sync.expert import SyncExpert
from hh_train.metrics.sync.expert_training import (
    KnownShifts,
    MatchedSound,
    MouthClip,
    TrainingProgress,
    calibrate,
    train,
)
from hh_train.metrics.sync.lip_sync import why_undefined

FLOOR_FILE = "floor.json"
_SPLITS = ("train", "validation", "test")
_HELD_OUT = ("validation", "test")
_NUM_LISTED = 10
_LEAST_TO_CALIBRATE = 20


def run(
    *,
    footage: str,
    output: str,
    faces: FaceFinder,
    max_steps: int,
    max_seconds: float | None,
    batch_size: int,
    num_frames: int,
    side: int,
    width: int,
    seed: int,
) -> Path:
    """Footage to a folder of `model.safetensors`, `expert.json` and `floor.json`. A finished folder is kept.

    Args:
        footage: folder of clips with sound and a frontal face, split into train, validation and test.
        output: the expert's folder.
        faces: finds the face of a clip; the evaluation should use the same.
        max_steps: optimizer steps of the learning-rate cycle.
        max_seconds: ends the cycle earlier; null leaves it to the steps, so that a second training gives the same
            weights.
        batch_size: clips a step.
        num_frames: of the stretches that are looked at; shorter clips are left out.
        side: of a mouth crop in pixels, a multiple of 8.
        width: channels of the network.
        seed: of weights, augmentations and order.

    Raises:
        ValueError: when fewer than two training clips have a talking mouth and sound.
    """
    folder = Path(output)
    console = Console()
    if (folder / FLOOR_FILE).is_file():
        console.print(f"{folder} is finished and kept; delete it to train again", markup=False, soft_wrap=True)
        _print_floor(console, json.loads((folder / FLOOR_FILE).read_text(encoding="utf-8")))
        return folder
    files = find_footage(footage)
    splits = {split: _read_split(files, split, faces, side, num_frames, console) for split in _SPLITS}
    training, dropped = splits["train"]
    if len(training) < 2:
        listed = "; ".join(f"{key}: {reason}" for key, reason in list(dropped.items())[:3])
        raise ValueError(
            f"{len(training)} training clips of {footage} have a talking mouth and sound ({listed}); wanted two or more"
        )
    expert = _train(
        training, max_steps, max_seconds, batch_size=batch_size, num_frames=num_frames, width=width, seed=seed
    )
    enough = len(splits["validation"][0]) >= _LEAST_TO_CALIBRATE
    calibrate(expert, splits["validation"][0] if enough else training)
    floor: dict[str, Any] = {"fingerprint": expert.fingerprint(), "num_training_clips": len(training)}
    for split in _HELD_OUT:
        floor[split] = measure_floor(expert, splits[split][0], seed=seed)
    floor["left_out"] = {split: reasons for split, (_, reasons) in splits.items()}
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    expert.save(unfinished)
    (unfinished / FLOOR_FILE).write_text(json.dumps(floor, indent=1, ensure_ascii=False), encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    unfinished.rename(folder)
    _print_floor(console, floor)
    return folder


def measure_floor(expert: SyncExpert, clips: Sequence[MouthClip], *, seed: int = 0) -> dict[str, dict[str, Any]]:
    """`KnownShifts` and `MatchedSound` of real clips: names to `Score`'s fields."""
    if not clips:
        return {}
    shifts, matches = KnownShifts(seed=seed), MatchedSound(seed=seed)
    for clip, other in zip(clips, [*clips[1:], clips[0]], strict=True):
        shifts.update(clip, expert)
        matches.update(clip, other, expert)
    return {name: score._asdict() for metric in (shifts, matches) for name, score in metric.compute().items()}


def _read_split(
    files: Sequence[FootageFile], split: str, faces: FaceFinder, side: int, num_frames: int, console: Console
) -> tuple[list[MouthClip], dict[str, str]]:
    """The split's talking mouths, and for the clips that show none the reason."""
    chosen = [file for file in files if file.split == split]
    mouths: list[MouthClip] = []
    left_out: dict[str, str] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        reader = MediaReader(samples_per_second=SAMPLES_PER_SECOND)
        for file in progress.track(chosen, description=f"read {split}"):
            try:
                mouths.append(_mouth_clip(file, reader, faces, side, num_frames))
            except ValueError as error:
                left_out[file.key] = str(error)
    console.print(f"{split}: {len(mouths)} of {len(chosen)} clips have a talking mouth and sound")
    for key, reason in list(left_out.items())[:_NUM_LISTED]:
        console.print(f"  left out {key}: {reason}", markup=False, soft_wrap=True)
    return mouths, left_out


def _mouth_clip(file: FootageFile, reader: MediaReader, faces: FaceFinder, side: int, num_frames: int) -> MouthClip:
    """Raises ValueError, with the reason, for a clip that shows no talking mouth. It needs no caption."""
    if file.problem is not None:
        raise ValueError(file.problem)
    clip = reader.read(file.path)
    if clip.frames.shape[0] < num_frames:
        raise ValueError(f"has {clip.frames.shape[0]} frames, fewer than {num_frames}")
    waveform = require_sound(clip)
    mouth = Sample(key=file.key, clip=clip, transcript=None, language=None, faces=faces).mouth
    reason = why_undefined(mouth.opening, waveform)
    if reason is not None:
        raise ValueError(reason)
    return MouthClip(key=file.key, crops=mouth_crops(clip.frames, mouth.boxes, size=side), waveform=waveform)


def _train(
    clips: Sequence[MouthClip],
    max_steps: int,
    max_seconds: float | None,
    *,
    batch_size: int,
    num_frames: int,
    width: int,
    seed: int,
) -> SyncExpert:
    columns = (
        TextColumn("sync expert"),
        BarColumn(),
        TextColumn("step {task.fields[step]}  loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, refresh_per_second=1) as progress:
        task = progress.add_task("", total=1.0, step=0, loss=float("nan"))

        def report(now: TrainingProgress) -> None:
            progress.update(task, completed=now.fraction, step=now.step, loss=now.loss)

        return train(
            clips,
            max_steps=max_steps,
            max_seconds=max_seconds,
            batch_size=batch_size,
            num_frames=num_frames,
            width=width,
            seed=seed,
            report=report,
        )


def _print_floor(console: Console, floor: dict[str, Any]) -> None:
    table = Table(title="Known shifts of real clips, as the sync expert finds them (its floor)", title_justify="left")
    for column in ("split", "quantity", "value", "95 % interval", "n"):
        table.add_column(column, justify="left" if column in ("split", "quantity") else "right")
    for split in _HELD_OUT:
        for name, fields in floor[split].items():
            score = Score(**fields)
            if score.mean is not None and score.low is not None and score.high is not None:
                form = "{:.2f}" if name.endswith("frames") else "{:.1%}"
                interval = f"{form.format(score.low)} to {form.format(score.high)}"
                table.add_row(split, name.replace("_", " "), form.format(score.mean), interval, str(score.num_clips))
    console.print(table)
