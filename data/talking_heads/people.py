"""Who speaks and where: speakers with one face and one voice each, and the scene of one clip.

Every attribute that a caption names comes from a small vocabulary shared by all splits; the combinations differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from speech import Voice

Color = tuple[int, int, int]
"""Red, green, blue, 0..255."""

SPEAKERS_PER_SPLIT = {"train": 96, "validation": 16, "test": 16}
NEW_PEOPLE = "test"
"""The split whose speakers stand for people that a model has never seen."""

SKINS: tuple[Color, ...] = ((247, 215, 190), (234, 190, 155), (208, 154, 112), (160, 108, 74), (112, 74, 52))
HAIR_COLORS: dict[str, Color] = {
    "black": (32, 28, 32),
    "brown": (98, 60, 34),
    "blond": (222, 184, 100),
    "red": (176, 76, 34),
    "gray": (176, 176, 180),
}
CLOTHES_COLORS: dict[str, Color] = {
    "red": (200, 52, 56),
    "blue": (48, 88, 184),
    "green": (48, 140, 80),
    "yellow": (232, 196, 64),
    "white": (238, 238, 236),
    "black": (44, 44, 50),
    "purple": (128, 68, 160),
}
WALL_COLORS: dict[str, Color] = {
    "blue": (136, 176, 216),
    "green": (152, 196, 156),
    "pink": (232, 180, 188),
    "gray": (126, 132, 142),
    "yellow": (236, 220, 160),
}
BACKGROUNDS = (*(f"{color} wall" for color in WALL_COLORS), "window", "red curtain", "garden")
GARMENTS = ("sweater", "shirt", "jacket")
HAIR_STYLES = {"woman": ("long", "short", "curly", "tied"), "man": ("short", "curly", "bald", "short")}
VARIANTS = {"woman": ("f1", "f2", "f3", "f4", "f5"), "man": ("m1", "m2", "m3", "m4", "m6", "m7")}
FRAMINGS = {"close-up": 0.63, "medium shot": 0.5}
"""Framing -> width of the face as a share of the picture's shorter side."""

_AGES = ("young", "", "", "old")
PITCHES = {"low": (25, 34), "": (44, 52), "high": (62, 71)}
"""Word of the caption -> least and greatest pitch of such voices. They are apart, so that the word can be heard."""
PACES = {"slow": (152, 162), "": (174, 184), "fast": (196, 208)}
"""Word of the caption -> fewest and most words a minute."""


@dataclass(frozen=True, kw_only=True)
class Person:
    """A speaker: the same face and voice in every clip."""

    name: str
    kind: str
    """woman or man."""
    age: str
    """young, old or empty."""
    skin: Color
    hair_style: str
    hair_color: str
    glasses: bool
    beard: bool
    face_length: float
    """Half the height of the face over half its width."""
    jaw: float
    """2 is an oval chin, 3 a square one."""
    eye_spacing: float
    eye_size: float
    eye_color: Color
    brow_height: float
    nose_length: float
    mouth_size: float
    lip_fullness: float
    pitch: str
    """low, high or empty."""
    pace: str
    """slow, fast or empty."""
    voice: Voice

    @property
    def looks(self) -> str:
        """As captions put it: `young woman, long black hair, glasses`."""
        bald = self.hair_style == "bald"
        hair = "bald" if bald else f"{self.hair_style} {self.hair_color} hair"
        beard = f"{self.hair_color} beard" if bald else "beard"
        who = f"{self.age} {self.kind}".strip()
        return ", ".join([who, hair, *(["glasses"] if self.glasses else []), *([beard] if self.beard else [])])

    @property
    def speaker(self) -> str:
        """As the dialogue names the speaker: `Woman, low fast voice`."""
        adjectives = f"{self.pitch} {self.pace}".strip() or "normal"
        return f"{self.kind.capitalize()}, {adjectives} voice"


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One camera position."""

    framing: str
    shift: tuple[float, float]
    """Where the face's center is off the picture's, in shares of the shorter side."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What changes from clip to clip of one speaker."""

    garment: str
    clothes_color: str
    background: str
    shots: tuple[Shot, ...]

    def describe(self, person: Person) -> str:
        """The caption's description, of at most 15 words (18 with two shots)."""
        framing = ", then ".join(shot.framing for shot in self.shots)
        article = "an" if person.looks.startswith("o") else "a"
        return (
            f"{framing[0].upper()}{framing[1:]} of {article} {person.looks}, "
            f"{self.clothes_color} {self.garment}, {self.background}."
        )


def generator(*parts: object) -> np.random.Generator:
    """Random numbers that depend on the parts alone: (seed, split, index, purpose)."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def draw_person(seed: int, split: str, index: int) -> Person:
    """Speaker `index` of a split; women and men by turns."""
    random = generator(seed, split, "speaker", index)
    kind = ("woman", "man")[index % 2]
    age = str(random.choice(_AGES))
    colors = ["gray"] if age == "old" else [color for color in HAIR_COLORS if color != "gray"]
    tint = random.uniform(0.94, 1.04)
    pitch, pace = str(random.choice(list(PITCHES))), str(random.choice(list(PACES)))
    return Person(
        name=f"{split}-speaker-{index:03d}",
        kind=kind,
        age=age,
        skin=_tinted(SKINS[random.integers(len(SKINS))], tint),
        hair_style=str(random.choice(HAIR_STYLES[kind])),
        hair_color=str(random.choice(colors)),
        glasses=bool(random.random() < 0.25),
        beard=bool(kind == "man" and age != "young" and random.random() < 0.45),
        face_length=float(random.uniform(1.12, 1.3)),
        jaw=float(random.uniform(1.9, 2.3) if kind == "woman" else random.uniform(2.2, 2.9)),
        eye_spacing=float(random.uniform(0.39, 0.46)),
        eye_size=float(random.uniform(0.15, 0.185)),
        eye_color=((70, 110, 160), (80, 120, 70), (90, 60, 40), (50, 36, 30))[random.integers(4)],
        brow_height=float(random.uniform(0.28, 0.34)),
        nose_length=float(random.uniform(0.3, 0.4)),
        mouth_size=float(random.uniform(0.95, 1.12)),
        lip_fullness=float(random.uniform(0.8, 1.05) if kind == "man" else random.uniform(1.0, 1.35)),
        pitch=pitch,
        pace=pace,
        voice=Voice(
            variant=str(random.choice(VARIANTS[kind])),
            pitch=int(random.integers(*PITCHES[pitch], endpoint=True)),
            words_per_minute=int(random.integers(*PACES[pace], endpoint=True)),
            accent=int(random.random() < 0.3),
        ),
    )


def draw_scene(random: np.random.Generator, *, num_shots: int, framings: Sequence[str] = tuple(FRAMINGS)) -> Scene:
    """Clothes, background and camera of one clip; the shots differ in framing as far as there are `framings`."""
    drawn = list(random.permutation(list(framings)))
    return Scene(
        garment=str(random.choice(GARMENTS)),
        clothes_color=str(random.choice(list(CLOTHES_COLORS))),
        background=str(random.choice(BACKGROUNDS)),
        shots=tuple(
            Shot(
                framing=str(framing),
                shift=(float(random.uniform(-0.03, 0.03)), float(random.uniform(-0.02, 0.02))),
            )
            for framing in (drawn[shot % len(drawn)] for shot in range(num_shots))
        ),
    )


def _tinted(color: Color, factor: float) -> Color:
    red, green, blue = (min(255, round(channel * factor)) for channel in color)
    return red, green, blue
