"""Noise that belongs to the clip."""

from __future__ import annotations

from collections.abc import Callable

import torch

from hh_train.data.packing import pack
from hh_train.flow.clip_noise import ClipNoise
from hh_train.flow.noise_levels import ShiftedUniform
from hh_train.types import LatentClip

PATCH = (1, 2, 2)


def test_the_batch_does_not_matter(make_clip: Callable[..., LatentClip]) -> None:
    clips = [make_clip("a"), make_clip("b", audio=9), make_clip("c")]
    together = pack(clips, patch=PATCH)
    draws = ClipNoise(together, seed=3, purpose="train", step=7)
    levels, (video, audio) = draws.levels(ShiftedUniform()), draws.gaussian()
    for index, clip in enumerate(clips):
        alone = ClipNoise(pack([clip], patch=PATCH), seed=3, purpose="train", step=7)
        assert alone.levels(ShiftedUniform()) == levels[index]
        own_video, own_audio = alone.gaussian()
        assert torch.equal(own_video, video[together.video_clip == index])
        assert torch.equal(own_audio, audio[together.audio_clip == index])


def test_everything_else_does(make_clip: Callable[..., LatentClip]) -> None:
    batch = pack([make_clip("a")], patch=PATCH)
    first = ClipNoise(batch, seed=3, purpose="train", step=7)
    draws = [first.gaussian()[0], first.gaussian()[0]]
    for change in ({"seed": 4}, {"purpose": "critic"}, {"step": 8}):
        draws.append(ClipNoise(batch, **({"seed": 3, "purpose": "train", "step": 7} | change)).gaussian()[0])
    assert len({float(draw[0, 0]) for draw in draws}) == len(draws)
