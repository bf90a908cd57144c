"""Mouths of drawn heads that speak, and a sync expert for them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hh_train.metrics.faces.crops import mouth_crops
from hh_train.metrics.measurer import Sample
from hh_train.metrics.sync.expert import SyncExpert
from hh_train.metrics.sync.expert_training import MouthClip, train
from hh_train.types import Clip

Speaker = Callable[..., Clip]


def mouth_clip(clip: Clip, key: str, side: int = 16) -> MouthClip:
    mouth = Sample(key=key, clip=clip, transcript=None, language=None).mouth
    assert clip.waveform is not None
    return MouthClip(key=key, crops=mouth_crops(clip.frames, mouth.boxes, size=side), waveform=clip.waveform)


@pytest.fixture(scope="session")
def held_out(speaker: Speaker) -> list[MouthClip]:
    """Mouths that the expert was not trained on."""
    return [mouth_clip(speaker(seed), str(seed)) for seed in range(100, 108)]


@pytest.fixture(scope="session")
def expert(speaker: Speaker) -> SyncExpert:
    """An expert for the drawn heads, trained in seconds."""
    clips = [mouth_clip(speaker(seed, num_frames=33), str(seed)) for seed in range(40)]
    return train(clips, max_steps=100, batch_size=12, width=24)
