"""From phonemes to the shape of the mouth over time."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from speech import Phoneme

_STEP_SECONDS = 0.005
_SMOOTHING_SECONDS = 0.018
"""Standard deviation of the coarticulation: about 60 ms from one shape to the next."""
_SHORTEST_CLOSURE_SECONDS = 0.046
"""Longer than a frame, so that each p, b and m shows at least one frame of closed lips."""
_RELEASE_SECONDS = 0.025
_PAUSE_SECONDS = 0.1
_LIPS_PART_SECONDS = 0.06
"""How long before the first sound the lips begin to part, and after the last come together."""


@dataclass(frozen=True)
class Viseme:
    """A mouth shape; every number in [0, 1]."""

    opening: float
    width: float
    rounding: float = 0.0
    teeth: float = 0.0


REST = Viseme(0.0, 0.5)

_SHAPES: tuple[tuple[str, Viseme], ...] = (
    ("aɑɐʌ", Viseme(1.0, 0.6, 0.0, 0.25)),
    ("æ", Viseme(0.9, 0.8, 0.0, 0.35)),
    ("ɛ", Viseme(0.65, 0.75, 0.0, 0.4)),
    ("e", Viseme(0.5, 0.85, 0.0, 0.5)),
    ("iɪ", Viseme(0.4, 1.0, 0.0, 0.75)),
    ("ɨɯ", Viseme(0.38, 0.6, 0.1, 0.5)),
    ("əɜɚɝ", Viseme(0.5, 0.5, 0.15, 0.3)),
    ("ɔɒ", Viseme(0.75, 0.35, 0.6, 0.1)),
    ("o", Viseme(0.6, 0.25, 0.8)),
    ("uʊ", Viseme(0.38, 0.1, 1.0)),
    ("wɥ", Viseme(0.18, 0.0, 1.0)),
    ("yʏ", Viseme(0.36, 0.15, 0.9)),
    ("øœ", Viseme(0.5, 0.25, 0.8)),
    ("fv", Viseme(0.14, 0.5, 0.0, 1.0)),
    ("szɕʑ", Viseme(0.15, 0.8, 0.0, 1.0)),
    ("ʃʒʂʐ", Viseme(0.22, 0.3, 0.6, 0.9)),
    ("θð", Viseme(0.28, 0.6, 0.0, 0.7)),
    ("tdnɾɲ", Viseme(0.18, 0.6, 0.0, 0.7)),
    ("lɫɭ", Viseme(0.35, 0.6, 0.0, 0.4)),
    ("ɹrɽʁʀ", Viseme(0.3, 0.4, 0.4, 0.3)),
    ("jc", Viseme(0.28, 0.9, 0.0, 0.7)),
    ("kɡgqŋɴxχɣhɦʔ", Viseme(0.25, 0.55, 0.0, 0.3)),
    ("pbmɸβ", Viseme(0.0, 0.5)),
)
_VISEMES = {character: viseme for characters, viseme in _SHAPES for character in characters}
_VOWELS = set("aɑɐʌæɛeiɪɨɯəɜɚɝɔɒouʊyʏøœ")
_CLOSED = set("pbm")
_MARKS = ("Mn", "Lm", "Sk", "Nd", "Po", "Pd", "Zs")
"""Unicode categories of stress, length, tone and other marks on a sound."""


@dataclass(frozen=True)
class MouthTrack:
    """The mouth over time; four arrays of N values in [0, 1]."""

    opening: NDArray[np.float64]
    width: NDArray[np.float64]
    rounding: NDArray[np.float64]
    teeth: NDArray[np.float64]

    def at(self, index: int) -> Viseme:
        """The shape at one of the N times."""
        return Viseme(*(float(values[index]) for values in (self.opening, self.width, self.rounding, self.teeth)))


def split_sounds(phonemes: Sequence[Phoneme]) -> list[Phoneme]:
    """One entry per single sound: the parts of espeak-ng's diphthongs and affricates ("aɪ", "tʃ") share their time."""
    sounds: list[Phoneme] = []
    for phoneme in phonemes:
        characters = [c for c in unicodedata.normalize("NFD", phoneme.symbol) if is_sound(c)]
        edges = np.linspace(phoneme.start, phoneme.end, len(characters) + 1).tolist()
        sounds += [Phoneme(*sound) for sound in zip(characters, edges[:-1], edges[1:], strict=True)]
    return sounds


def is_sound(character: str) -> bool:
    """Whether a character of an IPA name is a sound of its own, and no stress, length or tone mark."""
    return unicodedata.category(character) not in _MARKS


def unknown_sounds(phonemes: Sequence[Phoneme]) -> set[str]:
    """Sounds for which there is no mouth shape; they are drawn as a half-open mouth."""
    return {sound.symbol for sound in split_sounds(phonemes)} - _VISEMES.keys()


def closures(phonemes: Sequence[Phoneme]) -> list[tuple[float, float]]:
    """Seconds from and to which p, b and m hold the lips together, each longer than a frame."""
    windows = []
    for sound in split_sounds(phonemes):
        if sound.symbol not in _CLOSED:
            continue
        start, end = {
            "p": (sound.start - 0.045, sound.start + 0.008),  # the event is the burst: closed before it
            "b": (sound.start - 0.02, sound.start + 0.028),
            "m": (sound.start, sound.end - 0.01),
        }[sound.symbol]
        windows.append((start, max(end, start + _SHORTEST_CLOSURE_SECONDS)))
    return windows


def mouth_track(phonemes: Sequence[Phoneme], times: NDArray[np.float64]) -> MouthTrack:
    """The mouth at the given seconds. Before the first and after the last phoneme the lips rest closed."""
    sounds = split_sounds(phonemes)
    if not sounds:
        raise ValueError("no phonemes: a mouth track needs at least one sound")
    begin, finish = sounds[0].start - _LIPS_PART_SECONDS, sounds[-1].end + _LIPS_PART_SECONDS
    grid = np.arange(begin - 0.2, finish + 0.2, _STEP_SECONDS)
    knots = [(begin, REST), *_knots(sounds), (finish, REST)]
    at = np.maximum.accumulate(np.array([time for time, _ in knots]))
    shapes = np.array([[v.opening, v.width, v.rounding, v.teeth] for _, v in knots])
    smooth = [gaussian_filter1d(np.interp(grid, at, column), _SMOOTHING_SECONDS / _STEP_SECONDS) for column in shapes.T]
    opening, width, rounding, teeth = (np.clip(np.interp(times, grid, column), 0, 1) for column in smooth)
    gate = _gate(times, [*closures(phonemes), (-np.inf, begin - 0.01), (finish + 0.01, np.inf)])
    return MouthTrack(opening * gate, width, rounding, teeth)


def _knots(sounds: Sequence[Phoneme]) -> list[tuple[float, Viseme]]:
    """Times at which a shape is reached: vowels, loudest early, hold it there, consonants touch it."""
    knots: list[tuple[float, Viseme]] = []
    previous_end = sounds[0].start
    for sound in sounds:
        if sound.start - previous_end > _PAUSE_SECONDS:
            knots += [(previous_end + 0.05, REST), (sound.start - 0.05, REST)]
        viseme = _VISEMES.get(sound.symbol, Viseme(0.4, 0.5))
        places = (0.1, 0.5) if sound.symbol in _VOWELS else (0.5,)
        knots += [(sound.start + place * (sound.end - sound.start), viseme) for place in places]
        previous_end = sound.end
    return knots


def _gate(times: NDArray[np.float64], windows: Sequence[tuple[float, float]]) -> NDArray[np.float64]:
    """0 inside the windows, rising to 1 over the release on both sides."""
    gate = np.ones_like(times)
    for start, end in windows:
        distance = np.maximum(np.maximum(start - times, times - end), 0.0)
        gate = np.minimum(gate, np.clip(distance / _RELEASE_SECONDS, 0, 1))
    return gate
