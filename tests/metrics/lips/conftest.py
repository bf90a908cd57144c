"""Mouths that say three words by their shapes, and readers and recognizers that are told what to say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from hh_train.metrics.lips.training import SpokenMouth

SHAPES = {"wide": (18.0, 4.0), "tall": (6.0, 14.0), "round": (9.0, 9.0)}
FRAMES_A_WORD = 6


def mouth_crops_of(words: Sequence[str], random: np.random.Generator) -> torch.Tensor:
    """A dark ellipse on gray that takes each word's shape and closes between words."""
    sizes = [(10.0, 1.0)] * 3
    for word in words:
        wide, tall = SHAPES[word]
        for i in range(FRAMES_A_WORD):
            open_by = np.sin(np.pi * (i + 0.5) / FRAMES_A_WORD)
            sizes.append((10 + (wide - 10) * open_by, 1 + (tall - 1) * open_by))
        sizes += [(10.0, 1.0)] * 2
    y, x = np.mgrid[0:48, 0:48]
    dx, dy = random.uniform(-1.5, 1.5, 2)
    skin, lips = random.uniform(120, 220), random.uniform(20, 70)
    inside = [((x - 24 - dx) / wide) ** 2 + ((y - 24 - dy) / tall) ** 2 < 1 for wide, tall in sizes]
    pictures = np.where(np.stack(inside), lips, skin) + random.normal(0, 4, (len(sizes), 48, 48))
    return torch.from_numpy(pictures.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def spoken_mouths() -> Callable[..., list[SpokenMouth]]:
    """So many clips of two or three words."""

    def make(count: int, seed: int) -> list[SpokenMouth]:
        random = np.random.default_rng(seed)
        mouths = []
        for i in range(count):
            words = [list(SHAPES)[k] for k in random.integers(0, 3, 2 + i % 2)]
            crops = mouth_crops_of(words, random)
            mouths.append(SpokenMouth(key=f"{seed}-{i}", crops=crops, transcript=" ".join(words), language="en"))
        return mouths

    return make


@dataclass
class Told:
    """A lip reader and a speech recognizer that say what they are told, and count how often they are asked."""

    text: str
    languages: Sequence[str] = ("en",)
    crop_size: int = 56
    asked: int = 0

    def read(self, crops: torch.Tensor, language: str) -> str:
        assert crops.shape[1:] == (self.crop_size, self.crop_size) and crops.dtype == torch.uint8
        self.asked += 1
        return self.text

    def transcribe(self, waveform: torch.Tensor, language: str) -> str:
        self.asked += 1
        return self.text

    def fingerprint(self) -> str:
        return f"told {self.text}"


@pytest.fixture
def told() -> type[Told]:
    return Told
