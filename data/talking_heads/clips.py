"""One clip of the data set: what is decided from (seed, split, index), and how it is rendered."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawing import HeadPainter
from motion import draw_poses
from numpy.typing import NDArray
from people import NEW_PEOPLE, SPEAKERS_PER_SPLIT, Person, Scene, draw_person, draw_scene, generator
from phonemes import MouthTrack, mouth_track
from speech import SAMPLES_PER_SECOND, Phoneme, Speech, speak
from texts import Line, draw_line

from hh_train.data.media.files import write_clip
from hh_train.types import LANGUAGE_NAMES, Clip, ClipMetadata, DialogueLine, Prompt

RECIPE_VERSION = 3
"""Goes up whenever the same request would give other clips, so that no folder mixes two kinds."""
FRAMES_PER_SECOND = 25
SAMPLES_PER_FRAME = SAMPLES_PER_SECOND // FRAMES_PER_SECOND
SHORTEST_FRAMES = 25
_SILENT_FRAMES = 2
"""Frames of closed lips before the first and after the last sound, at least."""
_ROOM_TONE = 3e-4
_ATTEMPTS = 40
_BACKGROUND_SOUND = "quiet room"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a rendered set depends on, beside the number of clips."""

    seed: int
    languages: tuple[str, ...]
    content: str
    digits: tuple[int, int]
    width: int
    height: int
    max_seconds: float
    two_shot_share: float
    framings: tuple[str, ...]
    head_motion: float
    person: int | None = None
    """The test speaker who speaks in every clip of every split; None draws each split's own speakers."""
    version: int = RECIPE_VERSION

    def to_json(self) -> dict[str, Any]:
        """As a folder notes it; `person` only where there is one."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("person", None)}


@dataclass(frozen=True, kw_only=True)
class PlannedClip:
    """A clip before it is drawn: everything but the pixels."""

    metadata: ClipMetadata
    person: Person
    scene: Scene
    waveform: NDArray[np.float32]
    """num_frames * 640 samples at 16 kHz."""
    phonemes: tuple[Phoneme, ...]
    """In the clip's seconds."""
    cuts: tuple[int, ...]
    """First frame of each shot after the first."""
    num_frames: int

    @property
    def frame_seconds(self) -> NDArray[np.float64]:
        """The middle of each frame."""
        return (np.arange(self.num_frames) + 0.5) / FRAMES_PER_SECOND


def clip_key(split: str, index: int) -> str:
    """Name of a clip without its ending."""
    return f"{split}-{index:06d}"


def plan_clip(recipe: Recipe, split: str, index: int) -> PlannedClip:
    """Decides a clip from the seed, the split and the index alone. Raises ValueError if no line fits `max_seconds`."""
    random = generator(recipe.seed, split, "clip", index)
    language = recipe.languages[index % len(recipe.languages)]
    speaker = int(random.integers(SPEAKERS_PER_SPLIT[split]))
    cast = (split, speaker) if recipe.person is None else (NEW_PEOPLE, recipe.person)
    person = draw_person(recipe.seed, *cast)
    num_shots = 2 if random.random() < recipe.two_shot_share else 1
    scene = draw_scene(random, num_shots=num_shots, framings=recipe.framings)
    line, speech, num_frames = _draw_speech(random, recipe, split, language, person)
    cuts = (int(num_frames * random.uniform(0.35, 0.65)),) if num_shots == 2 else ()
    lead = _SILENT_FRAMES * SAMPLES_PER_FRAME
    waveform = (_ROOM_TONE * random.standard_normal(num_frames * SAMPLES_PER_FRAME)).astype(np.float32)
    waveform[lead : lead + len(speech.waveform)] += speech.waveform
    start = lead / SAMPLES_PER_SECOND
    return PlannedClip(
        metadata=ClipMetadata(
            key=clip_key(split, index),
            prompt=Prompt(
                description=scene.describe(person),
                dialogue=(DialogueLine(speaker=person.speaker, language=LANGUAGE_NAMES[language], line=line.written),),
                background_sound=_BACKGROUND_SOUND,
            ),
            transcript=line.written,
            language=language,
            speaker=person.name,
        ),
        person=person,
        scene=scene,
        waveform=waveform,
        phonemes=tuple(Phoneme(p.symbol, round(p.start + start, 4), round(p.end + start, 4)) for p in speech.phonemes),
        cuts=cuts,
        num_frames=num_frames,
    )


def render_clip(recipe: Recipe, split: str, index: int, folder: Path) -> None:
    """Writes `<key>.json`, `<key>.txt` and, last, `<key>.mp4`: a clip whose mp4 is there is complete."""
    clip = plan_clip(recipe, split, index)
    times = clip.frame_seconds
    mouth = mouth_track(clip.phonemes, times)
    poses = draw_poses(generator(recipe.seed, split, "motion", index), times, head_motion=recipe.head_motion)
    painter = HeadPainter(person=clip.person, scene=clip.scene, width=recipe.width, height=recipe.height)
    shots = [sum(frame >= cut for cut in clip.cuts) for frame in range(clip.num_frames)]
    boxes = [painter.mouth_box(shot, pose) for shot, pose in zip(shots, poses, strict=True)]
    key = clip.metadata.key
    described = clip.metadata.to_json() | {"truth": _truth(clip, mouth, boxes)}
    _write_text(folder / f"{key}.json", json.dumps(described, ensure_ascii=False) + "\n")
    _write_text(folder / f"{key}.txt", clip.metadata.prompt.compose() + "\n")
    frames = np.stack([painter.picture(shots[i], mouth.at(i), poses[i]) for i in range(clip.num_frames)])
    media = Clip(
        frames=torch.from_numpy(frames),
        frames_per_second=float(FRAMES_PER_SECOND),
        waveform=torch.from_numpy(clip.waveform),
        samples_per_second=SAMPLES_PER_SECOND,
    )
    write_clip(folder / f"{key}.mp4", media)


def _draw_speech(
    random: np.random.Generator, recipe: Recipe, split: str, language: str, person: Person
) -> tuple[Line, Speech, int]:
    """A line, its sound and the clip's frames: 4k+1, at least 25, within `max_seconds`."""
    for _ in range(_ATTEMPTS):
        line = draw_line(random, language=language, split=split, content=recipe.content, digits=recipe.digits)
        speech = speak(line.spoken, language=language, voice=person.voice)
        spoken_frames = int(np.ceil(len(speech.waveform) / SAMPLES_PER_FRAME)) + 2 * _SILENT_FRAMES
        num_frames = max(SHORTEST_FRAMES, 4 * int(np.ceil((spoken_frames - 1) / 4)) + 1)
        if num_frames <= recipe.max_seconds * FRAMES_PER_SECOND:
            return line, speech, num_frames
    raise ValueError(
        f"no {recipe.content} line in {LANGUAGE_NAMES[language]} fits {recipe.max_seconds} s after {_ATTEMPTS} tries: "
        "raise --max-seconds or lower --digits"
    )


def _truth(clip: PlannedClip, mouth: MouthTrack, boxes: list[tuple[float, float, float, float]]) -> dict[str, Any]:
    return {
        "mouth": {name: [round(float(v), 3) for v in values] for name, values in vars(mouth).items()},
        "phonemes": [[phoneme.symbol, phoneme.start, phoneme.end] for phoneme in clip.phonemes],
        "cuts_seconds": [cut / FRAMES_PER_SECOND for cut in clip.cuts],
        "mouth_box": [[round(edge, 3) for edge in box] for box in boxes],
    }


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
