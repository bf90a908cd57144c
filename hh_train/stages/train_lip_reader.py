"""Trains the data set's own lip reader on footage, and measures its floor: its error on real held-out clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from hh_train.data.footage.files import DroppedClip, FootageFile, find_footage, read_footage
from hh_train.data.media.files import MediaReader
from hh_train.metrics.faces.track import FaceFinder
from hh_train.metrics.lips.error_rate import LIPREAD, LipReading
from hh_train.metrics.lips.lip_network import LipNetwork
from hh_train.metrics.lips.reader import LipReader
from hh_train.metrics.lips.training import SpokenMouth, train
from hh_train.metrics.measurer import Sample
from hh_train.metrics.speech.measurer import required_transcript
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
from hh_train.types import Clip, ClipMetadata


def run(
    *,
    footage: str,
    output: str,
    faces: FaceFinder,
    max_steps: int,
    max_seconds: float | None,
    batch_size: int,
    width: int,
    num_blocks: int,
    seed: int,
) -> Path:
    """Footage to a folder of `model.safetensors`, `lip_reader.json` and `floor.json`. A finished folder is kept.

    Args:
        footage: folder of clips with a face and transcripts, split into train, validation and test.
        output: the lip reader's folder.
        faces: what finds the faces; an evaluation has to use the same.
        max_steps: optimizer steps of the learning-rate cycle.
        max_seconds: ends the cycle earlier; null leaves it to the steps, so that a second training gives the same
            weights.
        batch_size: clips a step.
        width: channels of the network.
        num_blocks: blocks over time of the network.
        seed: of weights, augmentations and order.

    Raises:
        ValueError: when no training clip has a face, and a transcript with its language.
    """
    folder = Path(output)
    console = Console()
    if (floor := kept_floor(folder, console)) is not None:
        _print_floor(console, floor)
        return folder
    files = find_footage(footage)
    splits = {split: _read_split(files, split, faces, console) for split in SPLITS}
    training, dropped = splits["train"]
    if not training:
        raise ValueError(
            f"no training clip of {footage} has a face, a transcript and a language ({first_reasons(dropped)}); "
            "add such clips"
        )
    reader = _train(
        training, max_steps, max_seconds, batch_size=batch_size, width=width, num_blocks=num_blocks, seed=seed
    )
    floor = {
        "fingerprint": reader.fingerprint(),
        "faces": faces.fingerprint(),
        "num_training_clips": len(training),
    }
    for split in HELD_OUT:
        floor[split] = measure_floor(reader, splits[split][0], seed=seed)
    floor["left_out"] = {split: reasons for split, (_, reasons) in splits.items()}
    write_judge(folder, reader.save, floor)
    _print_floor(console, floor)
    return folder


def measure_floor(reader: LipReader, mouths: Sequence[SpokenMouth], *, seed: int = 0) -> dict[str, dict[str, Any]]:
    """The reader's error on real clips, of all and of each language: names to `Score`'s fields."""
    slices: dict[str, LipReading] = {}
    for mouth in mouths:
        text = reader.read(mouth.crops, mouth.language)
        for name in ("all", mouth.language):
            metric = slices.setdefault(name, LipReading(seed=seed))
            metric.update(mouth.key, transcript=mouth.transcript, read=text, language=mouth.language)
    return {name: metric.compute()[LIPREAD]._asdict() for name, metric in sorted(slices.items())}


def _read_split(
    files: Sequence[FootageFile], split: str, faces: FaceFinder, console: Console
) -> tuple[list[SpokenMouth], dict[str, str]]:
    """The split's mouths with their words, and for the clips that give none the reason."""
    chosen = [file for file in files if file.split == split]
    mouths: list[SpokenMouth] = []
    left_out: dict[str, str] = {}
    with reading_bar(console) as progress:
        found = read_footage(chosen, MediaReader())
        for item in progress.track(found, len(chosen), description=f"faces of {split}"):
            if isinstance(item, DroppedClip):
                left_out[item.key] = item.reason
                continue
            try:
                mouths.append(_mouth(item.metadata, item.clip, faces))
            except ValueError as error:
                left_out[item.metadata.key] = str(error)
    print_usable(console, split, used=len(mouths), chosen=len(chosen), having="a face and words", left_out=left_out)
    return mouths, left_out


def _mouth(known: ClipMetadata, clip: Clip, faces: FaceFinder) -> SpokenMouth:
    """Raises ValueError, with the reason, for a clip that has no face or no words."""
    sample = Sample(key=known.key, clip=clip, transcript=known.transcript, language=known.language, faces=faces)
    transcript, language = required_transcript(sample)
    return SpokenMouth(key=known.key, crops=sample.crops(), transcript=transcript, language=language)


def _train(
    mouths: Sequence[SpokenMouth],
    max_steps: int,
    max_seconds: float | None,
    *,
    batch_size: int,
    width: int,
    num_blocks: int,
    seed: int,
) -> LipNetwork:
    with training_bar("lip reader") as report:
        return train(
            mouths,
            max_steps=max_steps,
            max_seconds=max_seconds,
            batch_size=batch_size,
            width=width,
            num_blocks=num_blocks,
            seed=seed,
            report=report,
        )


def _print_floor(console: Console, floor: Mapping[str, Any]) -> None:
    print_floor(console, floor, title="The lip reader's error on real clips (its floor)", rows="clips", value="error")
