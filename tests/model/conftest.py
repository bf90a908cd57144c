"""Attention written out in fp64, from the layouts of the clips alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from hh_train.types import ClipLayout


def visible(layouts: tuple[ClipLayout, ...], window: int | None) -> Tensor:
    """Which query (row) sees which key, token by token."""
    tokens: list[tuple[int, int | None]] = []  # clip, latent frame
    for clip, layout in enumerate(layouts):
        frames, height, width = layout.video
        tokens += [(clip, frame) for frame in range(frames) for _ in range(height * width)]
        tokens += [(clip, None)] * (layout.audio + layout.text)

    def sees(query: tuple[int, int | None], key: tuple[int, int | None]) -> bool:
        if query[0] != key[0]:
            return False
        if window is None or query[1] is None or key[1] is None:
            return True
        return abs(query[1] - key[1]) <= window

    pairs = [sees(query, key) for query in tokens for key in tokens]
    return torch.tensor(pairs, dtype=torch.bool).reshape(len(tokens), len(tokens))


def written_out(
    query: Tensor, key: Tensor, value: Tensor, layouts: tuple[ClipLayout, ...], window: int | None = None
) -> Tensor:
    """Softmax attention in fp64 with one dense mask [N Hq D]."""
    repeats = query.shape[1] // key.shape[1]
    query, key, value = (
        query.double(),
        key.double().repeat_interleave(repeats, 1),
        value.double().repeat_interleave(repeats, 1),
    )
    scores = torch.einsum("ihd,jhd->hij", query, key) / query.shape[-1] ** 0.5
    scores = scores.masked_fill(~visible(layouts, window).to(query.device), -torch.inf)
    return torch.einsum("hij,jhd->ihd", scores.softmax(-1), value)


@pytest.fixture(scope="session")
def visible_pairs() -> Callable[..., Tensor]:
    return visible


@pytest.fixture(scope="session")
def reference_attention() -> Callable[..., Tensor]:
    return written_out
