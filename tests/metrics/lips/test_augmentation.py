"""Variants differ, repeat with the generator's state, and leave a mouth a mouth."""

from __future__ import annotations

from collections.abc import Callable

import torch

from hh_train.metrics.lips.augmentation import augment
from hh_train.metrics.lips.lip_network import normalized
from hh_train.metrics.lips.training import SpokenMouth


def test_variants(spoken_mouths: Callable[..., list[SpokenMouth]]) -> None:
    crops = normalized(spoken_mouths(1, 0)[0].crops)
    generator = torch.Generator().manual_seed(0)
    variants = [augment(crops, generator) for _ in range(20)]
    again = augment(crops, torch.Generator().manual_seed(0))
    assert torch.equal(again, variants[0]) and not torch.equal(variants[0], variants[1])
    counts = {len(v) for v in variants}
    assert len(counts) > 3 and all(len(crops) / 1.25 <= n <= len(crops) / 0.8 for n in counts)
    assert all(v.shape[1:] == (48, 48) and v.isfinite().all() for v in variants)
    # the mouth is darker than the skin about it, in nearly all of the variants
    darker = [float(v[:, 16:32, 16:32].mean() - v[:, :8].mean()) < 0 for v in variants]
    assert sum(darker) >= 18


def test_crops_are_left_as_they_are(spoken_mouths: Callable[..., list[SpokenMouth]]) -> None:
    crops = normalized(spoken_mouths(1, 0)[0].crops)
    before = crops.clone()
    augment(crops, torch.Generator().manual_seed(3))
    assert torch.equal(crops, before)
