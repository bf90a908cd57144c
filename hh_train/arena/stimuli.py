"""Clips made alike for a blind test: one length, one loudness, one encoder, and nothing in the file that names it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hh_train.arena.contest import Contest, ControlPair, Program, Take
from hh_train.arena.loudness import equal_gains
from hh_train.data.footage.files import FootageFile, find_footage, hash_order, read_metadata
from hh_train.data.media.files import MediaReader, write_clip

SAMPLES_PER_SECOND = 48_000
QUALITY = 12
"""Of the encoder: finer than what `generate` writes, so that the second encoding cannot be seen."""
DELAY_SECONDS = 0.4
_RECIPE = 1
_FADE_SECONDS = 0.01
_SOUND_BIT_RATE = 192_000


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One system's clip, as found."""

    system: str
    file: FootageFile
    source: str
    frames_per_second: float
    seconds: float
    waveform: Float[Tensor, " S"] | None


@dataclass(kw_only=True)
class StimulusMaker:
    """Writes the clips that are shown into a folder, under names that say nothing. Those that are there are kept.

    Clips of one prompt are cut to the shortest of them, and are equally loud. Each keeps its own frame rate and size;
    sound is mono.
    """

    folder: Path
    shift_seconds: float = DELAY_SECONDS
    """By how much the sound of a control pair is late."""
    num_controls: int = 20
    """Prompts that get a control pair."""
    _left_out: dict[str, str] = field(default_factory=dict)

    def make(
        self,
        systems: Mapping[str, str],
        *,
        reference: str | None = None,
        max_prompts: int | None = None,
        report: Callable[[int, int], None] | None = None,
    ) -> Program:
        """All that can be voted on.

        Clips that cannot be used are left out with the reason: unreadable ones, those of another prompt or another seed
        than the first system's, and those of a prompt that no second system has.

        Args:
            systems: folders of generated clips by name.
            reference: folder of real clips, for control pairs; without one a system's own clips serve.
            max_prompts: at most so many: those that most systems have, in a fixed mixed order.
            report: called with the number of prompts that are done, and of all.

        Raises:
            ValueError: fewer than two systems, a missing folder, or no prompt that two systems share.
        """
        if len(systems) < 2:
            raise ValueError(f"got the systems {list(systems)}; name two or more folders to vote between")
        found = {name: _found(name, folder) for name, folder in systems.items()}
        real = {} if reference is None else _found("reference", reference)
        counts = Counter(key for files in found.values() for key in files)
        keys = sorted((key for key in counts if counts[key] > 1), key=lambda key: (-counts[key], hash_order(key)))
        if not keys:
            examples = {name: next(iter(files)) for name, files in found.items()}
            raise ValueError(f"no two of the systems have a clip of one key (such as {examples}); generate one split")
        keys = keys[:max_prompts]
        self.folder.mkdir(parents=True, exist_ok=True)
        contests: list[Contest] = []
        left_out: dict[str, str] = {}
        num_controls = 0
        for done, key in enumerate(keys, 1):
            candidates = {name: files[key] for name, files in found.items() if key in files}
            wants_control = num_controls < self.num_controls
            own = min(candidates, key=lambda name: hash_order(f"{key} {name}"))
            of_control = real.get(key) if real else candidates[own]
            contest, reasons = self._remembered(key, candidates, of_control if wants_control else None)
            left_out |= reasons
            if contest is not None:
                contests.append(contest)
                num_controls += contest.control is not None
            if report is not None:
                report(done, len(keys))
        return Program(contests=tuple(contests), left_out=left_out)

    def _remembered(
        self, key: str, candidates: Mapping[str, FootageFile], of_control: FootageFile | None
    ) -> tuple[Contest | None, dict[str, str]]:
        """The contest, and what was left out of it: from its record, where nothing has changed since it was written."""
        states = {name: _state(file) for name, file in candidates.items()}
        settings = (_RECIPE, self.shift_seconds, key, states, of_control and _state(of_control))
        record = self.folder / f"{hashlib.sha256(repr(settings).encode()).hexdigest()[:24]}.json"
        if record.is_file():
            contest, left_out = _from_json(json.loads(record.read_text(encoding="utf-8")), self.folder)
            if contest is None or all(take.path.is_file() for take in _takes(contest)):
                return contest, left_out
        self._left_out = {}
        contest = self._contest(key, candidates, of_control)
        unfinished = record.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(_to_json(contest, self._left_out), ensure_ascii=False), encoding="utf-8")
        unfinished.replace(record)
        return contest, self._left_out

    def _contest(
        self,
        key: str,
        candidates: Mapping[str, FootageFile],
        of_control: FootageFile | None,
    ) -> Contest | None:
        prompt, alike = self._of_one_prompt(key, candidates)
        entries = [entry for name, file in alike.items() if (entry := self._read_entry(name, file)) is not None]
        if len(entries) < 2:
            self._left_out[key] = "fewer than two systems have a clip of it that can be shown"
            return None
        seconds = min(entry.seconds for entry in entries)
        takes = self._write(entries, seconds, [0.0] * len(entries))
        if takes is None:
            return None
        control = None if of_control is None else self._control(self._read_entry("control", of_control))
        shown = {entry.system: take for entry, take in zip(entries, takes, strict=True)}
        return Contest(key=key, prompt=prompt, takes=shown, control=control)

    def _of_one_prompt(self, key: str, candidates: Mapping[str, FootageFile]) -> tuple[str, dict[str, FootageFile]]:
        """The prompt, and the clips that were made of it with one seed."""
        alike: dict[str, FootageFile] = {}
        prompt: str | None = None
        seed: Any = None
        for name, file in candidates.items():
            try:
                own_prompt, own_seed = read_metadata(file).prompt.compose(), _seed(file)
            except (ValueError, OSError) as error:
                self._left_out[f"{name}/{key}"] = str(error)
                continue
            if prompt is not None and own_prompt != prompt:
                self._left_out[f"{name}/{key}"] = f"its prompt is not that of {next(iter(alike))}"
            elif seed is not None and own_seed is not None and own_seed != seed:
                self._left_out[f"{name}/{key}"] = f"its seed is {own_seed}, that of the systems before it {seed}"
            else:
                prompt, alike[name] = own_prompt, file
                seed = own_seed if seed is None else seed
        return prompt or "", alike

    def _read_entry(self, system: str, file: FootageFile) -> _Entry | None:
        """The clip's length and sound; None, with the reason kept, where it cannot be read."""
        try:
            info = MediaReader().probe(file.path)
            if info.is_image or not info.frames_per_second:
                raise ValueError("is no video")
            clip = _reader(info.frames_per_second, size=(16, 16)).read(file.path)
            source = hashlib.sha256(file.path.read_bytes()).hexdigest()[:16]
        except (ValueError, OSError) as error:
            self._left_out[f"{system}/{file.key}"] = str(error)
            return None
        return _Entry(
            system=system,
            file=file,
            source=source,
            frames_per_second=info.frames_per_second,
            seconds=clip.frames.shape[0] / info.frames_per_second,
            waveform=clip.waveform,
        )

    def _control(self, entry: _Entry | None) -> ControlPair | None:
        """None where there is no sound to be late, or too little of it."""
        if entry is None or entry.waveform is None or entry.seconds < 2 * self.shift_seconds:
            return None
        takes = self._write([entry, entry], entry.seconds, [0.0, self.shift_seconds])
        if takes is None or not bool(entry.waveform.any()):
            return None
        return ControlPair(in_time=takes[0], late=takes[1])

    def _write(self, entries: Sequence[_Entry], seconds: float, delays: Sequence[float]) -> list[Take] | None:
        """The clips cut to `seconds`, equally loud; None, with the reason kept, where one cannot be read again."""
        waveforms = [_sound(entry.waveform, seconds, delay) for entry, delay in zip(entries, delays, strict=True)]
        gains = equal_gains(waveforms, SAMPLES_PER_SECOND)
        takes = []
        for entry, waveform, gain, delay in zip(entries, waveforms, gains, delays, strict=True):
            recipe = f"{_RECIPE} {entry.source} {seconds:.6f} {gain:.6f} {delay}"
            path = self.folder / f"{hashlib.sha256(recipe.encode()).hexdigest()[:24]}.mp4"
            if not path.is_file():
                try:
                    clip = _reader(entry.frames_per_second).read(entry.file.path)
                except (ValueError, OSError) as error:
                    self._left_out[f"{entry.system}/{entry.file.key}"] = str(error)
                    return None
                num_frames = max(1, round(seconds * entry.frames_per_second))
                sound = None if waveform is None else waveform * gain
                shown = replace(clip, frames=clip.frames[:num_frames], waveform=sound)
                write_clip(path, shown, quality=QUALITY, sound_bit_rate=_SOUND_BIT_RATE)
            takes.append(Take(path=path, seconds=seconds, source=entry.source))
        return takes


def _takes(contest: Contest) -> list[Take]:
    control = [] if contest.control is None else [contest.control.in_time, contest.control.late]
    return [*contest.takes.values(), *control]


def _to_json(contest: Contest | None, left_out: Mapping[str, str]) -> dict[str, Any]:
    if contest is None:
        return {"contest": None, "left_out": dict(left_out)}
    control = contest.control
    fields = {
        "key": contest.key,
        "prompt": contest.prompt,
        "takes": {name: _take_to_json(take) for name, take in contest.takes.items()},
        "control": None if control is None else [_take_to_json(control.in_time), _take_to_json(control.late)],
    }
    return {"contest": fields, "left_out": dict(left_out)}


def _from_json(record: Mapping[str, Any], folder: Path) -> tuple[Contest | None, dict[str, str]]:
    fields = record["contest"]
    if fields is None:
        return None, record["left_out"]

    def take(row: Mapping[str, Any]) -> Take:
        return Take(path=folder / row["file"], seconds=row["seconds"], source=row["source"])

    control = fields["control"]
    contest = Contest(
        key=fields["key"],
        prompt=fields["prompt"],
        takes={name: take(row) for name, row in fields["takes"].items()},
        control=None if control is None else ControlPair(in_time=take(control[0]), late=take(control[1])),
    )
    return contest, record["left_out"]


def _take_to_json(take: Take) -> dict[str, Any]:
    return {"file": take.path.name, "seconds": take.seconds, "source": take.source}


def _state(file: FootageFile) -> list[Any]:
    """Changes with the clip, and with what is said of it."""
    paths = (file.path, file.path.with_suffix(".txt"), file.path.with_suffix(".json"))
    states = [(p.stat().st_size, p.stat().st_mtime_ns) if p.is_file() else None for p in paths]
    return [str(file.path.resolve()), *states, file.metadata, file.problem]


def _found(name: str, folder: str) -> dict[str, FootageFile]:
    try:
        return {file.key: file for file in find_footage(folder, held_out_share=0.0)}
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _reader(frames_per_second: float, size: tuple[int, int] | None = None) -> MediaReader:
    return MediaReader(
        frames_per_second=frames_per_second,
        samples_per_second=SAMPLES_PER_SECOND,
        size=size,
        frame_multiple=1,
        min_frames=2,
    )


def _seed(file: FootageFile) -> Any:
    """What the record of generation says; None where there is no record."""
    path = file.path.with_suffix(".json")
    fields = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    generation = fields.get("generation") if isinstance(fields, dict) else None
    return generation.get("seed") if isinstance(generation, dict) else None


def _sound(waveform: Float[Tensor, " S"] | None, seconds: float, delay_seconds: float) -> Float[Tensor, " T"] | None:
    """Cut or filled to a length, faded out over its last 10 ms, and late by a delay."""
    if waveform is None:
        return None
    num_samples, lead = round(seconds * SAMPLES_PER_SECOND), round(delay_seconds * SAMPLES_PER_SECOND)
    sound = torch.zeros(num_samples)
    part = waveform[: max(0, num_samples - lead)]
    sound[lead : lead + len(part)] = part
    fade = min(num_samples, round(_FADE_SECONDS * SAMPLES_PER_SECOND))
    sound[num_samples - fade :] *= torch.linspace(1, 0, fade)
    return sound
