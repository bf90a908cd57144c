"""Trains the data set's own sync expert on footage, and measures its floor: its error on known shifts of real clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from hh_train.data.footage.files import FootageFile, find_footage
from hh_train.data.media.files import MediaReader
from hh_train.metrics.faces.crops import mouth_crops
from hh_train.metrics.faces.track import FaceFinder
from hh_train.metrics.measurer import Sample
from hh_train.metrics.sound.tracks import SAMPLES_PER_SECOND, require_sound
from hh_train.metrics.sync.expert import SyncExpert
from hh_train.metrics.sync.expert_training import (
    KnownShifts,
    MatchedSound,
    MouthClip,
    calibrate,
    train,
)
from hh_train.metrics.sync.lip_sync import why_undefined
from hh_train.stages.judge_folder import (
    HELD_OUT,
    SPLITS,
    first_reasons,
    kept_floor,
    print_floor,
    print_usable,
    reading_bar,
    training_bar,
    write_judge,
)

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
    if (floor := kept_floor(folder, console)) is not None:
        _print_floor(console, floor)
        return folder
    files = find_footage(footage)
    splits = {split: _read_split(files, split, faces, side, num_frames, console) for split in SPLITS}
    training, dropped = splits["train"]
    if len(training) < 2:
        raise ValueError(
            f"{len(training)} training clips of {footage} have a talking mouth and sound "
            f"({first_reasons(dropped)}); wanted two or more"
        )
    expert = _train(
        training, max_steps, max_seconds, batch_size=batch_size, num_frames=num_frames, width=width, seed=seed
    )
    enough = len(splits["validation"][0]) >= _LEAST_TO_CALIBRATE
    calibrate(expert, splits["validation"][0] if enough else training)
    floor = {"fingerprint": expert.fingerprint(), "num_training_clips": len(training)}
    for split in HELD_OUT:
        floor[split] = measure_floor(expert, splits[split][0], seed=seed)
    floor["left_out"] = {split: reasons for split, (_, reasons) in splits.items()}
    write_judge(folder, expert.save, floor)
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
    with reading_bar(console) as progress:
        reader = MediaReader(samples_per_second=SAMPLES_PER_SECOND)
        for file in progress.track(chosen, description=f"read {split}"):
            try:
                mouths.append(_mouth_clip(file, reader, faces, side, num_frames))
            except ValueError as error:
                left_out[file.key] = str(error)
    print_usable(
        console, split, used=len(mouths), chosen=len(chosen), having="a talking mouth and sound", left_out=left_out
    )
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
    with training_bar("sync expert") as report:
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


def _print_floor(console: Console, floor: Mapping[str, Any]) -> None:
    print_floor(
        console,
        floor,
        title="Known shifts of real clips, as the sync expert finds them (its floor)",
        rows="quantity",
        value="value",
    )
