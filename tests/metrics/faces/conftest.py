"""Heads in larger pictures, and real clips where they have been fetched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hh_train.data.media.files import MediaReader
from hh_train.types import Clip

Placed = Callable[..., torch.Tensor]
_REAL_CLIPS = Path(__file__).parents[3] / "data" / "real_clips" / "generated"


@pytest.fixture(scope="session")
def placed_head(talking_clip: Callable[..., Clip]) -> Placed:
    """Frames [F, height, width, 3] of a head at a corner (x, y) that may move by whole pixels a frame."""

    def place(
        *, head: int, height: int, width: int, corner: tuple[int, int], step: tuple[int, int] = (0, 0), count: int = 25
    ) -> torch.Tensor:
        clip = talking_clip(num_frames=count, size=head)
        random = np.random.default_rng(0)
        background = (random.integers(60, 200, (height // 16 + 1, width // 16 + 1, 3))).astype(np.uint8)
        background = background.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]
        frames = torch.from_numpy(background).repeat(count, 1, 1, 1)
        for i in range(count):
            x, y = corner[0] + i * step[0], corner[1] + i * step[1]
            frames[i, y : y + head, x : x + head] = clip.frames[i]
        return frames

    return place


@pytest.fixture(scope="session")
def real_frames() -> Callable[[str], torch.Tensor]:
    """The first frames of a real clip; the test is skipped where it has not been fetched."""

    def read(name: str) -> torch.Tensor:
        path = _REAL_CLIPS / f"{name}.mp4"
        if not path.is_file():
            pytest.skip("run scripts/fetch_test_footage.sh for the real clips")
        return MediaReader(size=(240, 320)).read(path, max_frames=49).frames

    return read
