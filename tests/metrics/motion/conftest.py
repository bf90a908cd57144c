"""Networks whose answers are known, saved as the published ones are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn


class BrightnessFlow(nn.Module):
    """Flow to the right by the difference of the frames' mean levels, of two answers the second; its sides must be
    multiples of 8.
    """

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        assert first.shape[2] % 8 == 0 and first.shape[3] % 8 == 0
        flow = torch.zeros(1, 2, first.shape[2], first.shape[3])
        flow[:, 0] = (second - first).abs().mean()
        return flow + 1000, flow


class Average(nn.Module):
    """The mean of two frames of 0 to 1, as a dictionary; its sides must be multiples of 16."""

    def forward(self, first: Tensor, second: Tensor, time: Tensor) -> dict[str, Tensor]:
        assert first.shape[2] % 16 == 0 and first.shape[3] % 16 == 0
        assert first.max() <= 1.0
        return {"imgt_pred": (1 - time) * first + time * second}


class MeanColor(nn.Module):
    """Each frame's mean color, after whatever was done to it."""

    def forward(self, frames: Tensor) -> Tensor:
        return frames.mean(dim=(2, 3))


def scripted(module: nn.Module, path: Path) -> str:
    torch.jit.save(torch.jit.script(module), str(path))
    return str(path)


@pytest.fixture(scope="session")
def networks_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`flow.pt`, `middle.pt` and `color.pt`."""
    folder = tmp_path_factory.mktemp("networks")
    scripted(BrightnessFlow(), folder / "flow.pt")
    scripted(Average(), folder / "middle.pt")
    scripted(MeanColor(), folder / "color.pt")
    return folder
