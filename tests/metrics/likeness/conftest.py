"""Clips of people: skin and resonance are a person's, wall, clothes, words and loudness change from clip to clip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from hh_train.metrics.faces.framed import FramedFaces
from hh_train.metrics.measurer import Sample
from hh_train.types import Clip

SKINS = ((220, 90, 90), (90, 210, 90), (90, 90, 220), (220, 220, 210))
RESONANCES_HZ = (400, 1100, 2400, 5000)


@pytest.fixture(scope="session")
def clip_of(talking_clip: Callable[..., Clip]) -> Callable[[int, int], Clip]:
    """Clip `take` of person 0 to 3."""

    def make(person: int, take: int) -> Clip:
        clip = talking_clip(num_frames=25, seed=1 + 10 * person + take)
        assert clip.waveform is not None
        random = np.random.default_rng(100 * person + take)
        frames = clip.frames.clone()
        for was, now in (((215, 170, 140), SKINS[person]), ((90, 140, 110), random.integers(40, 220, 3))):
            frames[(clip.frames == torch.tensor(was, dtype=torch.uint8)).all(-1)] = torch.tensor(now, dtype=torch.uint8)
        frames[:, 56:] = torch.from_numpy(random.integers(0, 255, 3).astype(np.uint8))
        angle = 2 * np.pi * RESONANCES_HZ[person] / 16_000
        sound = lfilter([0.2], [1, -1.8 * np.cos(angle), 0.81], clip.waveform.numpy())
        waveform = torch.from_numpy((random.uniform(0.3, 1) * sound).astype(np.float32))
        return replace(clip, frames=frames, waveform=waveform)

    return make


@pytest.fixture(scope="session")
def sample_of(clip_of: Callable[[int, int], Clip]) -> Callable[[int, int], Sample]:
    def make(person: int, take: int) -> Sample:
        faces = FramedFaces(box=(0.2, 0.14, 0.8, 0.86))
        clip = clip_of(person, take)
        return Sample(key=f"{person}-{take}", clip=clip, transcript=None, language=None, faces=faces)

    return make
