"""Trains the data set's own speech recognizer on footage, and measures its floor: its error on real held-out clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from hh_train.data.footage.files import DroppedClip, FootageFile, find_footage, read_footage
from hh_train.data.media.files import MediaReader
from hh_train.metrics.speech.recognizer import SAMPLES_PER_SECOND, Recognizer
from hh_train.metrics.speech.recognizer_training import Utterance, train
from hh_train.metrics.speech.transcripts import is_digit_string, normalize
from hh_train.metrics.speech.wer import SpeechErrorRate
from hh_train.stages.judge_folder import (
    HELD_OUT,
    SPLITS,
    first_reasons,
    kept_floor,
    print_floor,
    print_usable,
    training_bar,
    write_judge,
)


def run(
    *,
    footage: str,
    output: str,
    max_steps: int,
    max_seconds: float | None,
    batch_size: int,
    width: int,
    num_blocks: int,
    seed: int,
) -> Path:
    """Footage to a folder of `model.safetensors`, `recognizer.json` and `floor.json`. A finished folder is kept.

    Args:
        footage: folder of clips with sound and transcripts, split into train, validation and test.
        output: the recognizer's folder.
        max_steps: optimizer steps of the learning-rate cycle.
        max_seconds: ends the cycle earlier; null leaves it to the steps, so that a second training gives the same
            weights.
        batch_size: recordings a step.
        width: channels of the network.
        num_blocks: residual blocks of the network.
        seed: of weights, augmentations and order.

    Raises:
        ValueError: when no training clip has both sound and a transcript with its language.
    """
    folder = Path(output)
    console = Console()
    if (floor := kept_floor(folder, console)) is not None:
        _print_floor(console, floor)
        return folder
    files = find_footage(footage)
    splits = {split: _read_split(files, split, console) for split in SPLITS}
    training, dropped = splits["train"]
    if not training:
        raise ValueError(
            f"no training clip of {footage} has sound, a transcript and a language ({first_reasons(dropped)}); "
            "add such clips"
        )
    recognizer = _train(
        training, max_steps, max_seconds, batch_size=batch_size, width=width, num_blocks=num_blocks, seed=seed
    )
    floor = {"fingerprint": recognizer.fingerprint(), "num_training_clips": len(training)}
    for split in HELD_OUT:
        floor[split] = measure_floor(recognizer, splits[split][0], seed=seed)
    floor["left_out"] = {split: reasons for split, (_, reasons) in splits.items()}
    write_judge(folder, recognizer.save, floor)
    _print_floor(console, floor)
    return folder


def measure_floor(
    recognizer: Recognizer, utterances: Sequence[Utterance], *, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """The recognizer's scores on real clips: for each language, and for its digit strings and sentences apart.

    Keys are `all`, `<language>`, `<language> digits` and `<language> sentences`; the values `Score`'s fields.
    """
    slices: dict[str, SpeechErrorRate] = {}
    for start in range(0, len(utterances), 32):
        batch = utterances[start : start + 32]
        heard = recognizer.transcribe_batch([u.waveform for u in batch], [u.language for u in batch])
        for utterance, text in zip(batch, heard, strict=True):
            kind = "digits" if is_digit_string(utterance.transcript, utterance.language) else "sentences"
            for name in ("all", utterance.language, f"{utterance.language} {kind}"):
                metric = slices.setdefault(name, SpeechErrorRate(seed=seed))
                metric.update(utterance.key, utterance.transcript, text, utterance.language)
    return {name: metric.compute()["error_rate"]._asdict() for name, metric in sorted(slices.items())}


def _read_split(files: Sequence[FootageFile], split: str, console: Console) -> tuple[list[Utterance], dict[str, str]]:
    """The split's utterances, and for the clips that give none the reason."""
    chosen = [file for file in files if file.split == split]
    utterances: list[Utterance] = []
    left_out: dict[str, str] = {}
    reader = MediaReader(samples_per_second=SAMPLES_PER_SECOND, size=(16, 16))
    for item in read_footage(chosen, reader):
        if isinstance(item, DroppedClip):
            left_out[item.key] = item.reason
            continue
        known, waveform = item.metadata, item.clip.waveform
        if waveform is None:
            left_out[known.key] = "has no sound"
        elif not known.transcript or not known.language:
            left_out[known.key] = "has no transcript" if not known.transcript else "its language is not known"
        elif not normalize(known.transcript, known.language):
            left_out[known.key] = f"its transcript {known.transcript!r} has no word"
        else:
            utterances.append(
                Utterance(key=known.key, waveform=waveform, transcript=known.transcript, language=known.language)
            )
    print_usable(console, split, used=len(utterances), chosen=len(chosen), having="sound and words", left_out=left_out)
    return utterances, left_out


def _train(
    utterances: Sequence[Utterance],
    max_steps: int,
    max_seconds: float | None,
    *,
    batch_size: int,
    width: int,
    num_blocks: int,
    seed: int,
) -> Recognizer:
    with training_bar("recognizer") as report:
        return train(
            utterances,
            max_steps=max_steps,
            max_seconds=max_seconds,
            batch_size=batch_size,
            width=width,
            num_blocks=num_blocks,
            seed=seed,
            report=report,
        )


def _print_floor(console: Console, floor: Mapping[str, Any]) -> None:
    print_floor(console, floor, title="The recognizer's error on real clips (its floor)", rows="clips", value="error")
