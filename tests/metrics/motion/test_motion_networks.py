"""Two frames through networks saved by path: padding, ranges, answers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from hh_train.metrics.motion.motion_networks import (
    FlowNetwork,
    FrameInterpolator,
    TorchScriptFlow,
    TorchScriptInterpolator,
    pad_to_multiple,
    unpad,
)


def level(value: int, height: int = 20, width: int = 37) -> Tensor:
    return torch.full((height, width, 3), value, dtype=torch.uint8)


def test_flow_is_in_pixels_of_the_frame_and_the_last_answer(networks_folder: Path) -> None:
    network = TorchScriptFlow(path=str(networks_folder / "flow.pt"))
    assert isinstance(network, FlowNetwork)
    flow = network.flow(level(10), level(17))
    assert flow.shape == (2, 20, 37)
    assert float(flow[0].min()) == float(flow[0].max()) == pytest.approx(7.0)
    assert float(flow[1].abs().max()) == 0.0


def test_the_frame_between_is_eight_bit(networks_folder: Path) -> None:
    network = TorchScriptInterpolator(path=str(networks_folder / "middle.pt"))
    assert isinstance(network, FrameInterpolator)
    middle = network.middle(level(10), level(21))
    assert middle.dtype == torch.uint8 and middle.shape == (20, 37, 3)
    assert middle.unique().tolist() == [15]
    assert network.fingerprint() != TorchScriptFlow(path=str(networks_folder / "flow.pt")).fingerprint()


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 31), (8, 45)])
def test_padding_repeats_edges_on_both_sides_and_is_taken_off_again(height: int, width: int) -> None:
    planes = torch.arange(height * width, dtype=torch.float32).reshape(1, 1, height, width)
    padded = pad_to_multiple(planes, 16)
    assert padded.shape[-1] % 16 == padded.shape[-2] % 16 == 0
    assert torch.equal(unpad(padded, (height, width)), planes)
    assert float(padded[0, 0, 0, 0]) == 0.0 and float(padded[0, 0, -1, -1]) == float(planes[0, 0, -1, -1])


def test_a_missing_network_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no file"):
        TorchScriptFlow(path=str(tmp_path / "raft.pt")).flow(level(0), level(1))
