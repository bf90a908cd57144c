"""VBench's formulas on features and frames whose answer is known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hh_train.metrics.motion.frame_features import TorchScriptFrameFeatures
from hh_train.metrics.motion.motion_networks import TorchScriptFlow, TorchScriptInterpolator
from hh_train.metrics.motion.vbench import VBench, VBenchNetworks, frame_consistency, measure_vbench, motion_smoothness


def gray(levels: list[int], size: int = 32) -> Tensor:
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, size, size, 3).contiguous()


def mean(row: object) -> float:
    return row.numerator / row.denominator  # type: ignore[attr-defined]


def test_consistency_of_identical_orthogonal_and_opposite_features() -> None:
    one = torch.tensor([[3.0, 0.0]])
    assert mean(frame_consistency(one.repeat(4, 1))) == pytest.approx(1.0)
    assert mean(frame_consistency(torch.eye(4))) == pytest.approx(0.0)
    assert mean(frame_consistency(torch.cat((one, -one)))) == 0.0
    with pytest.raises(ValueError, match="at least 2"):
        frame_consistency(one)


def test_consistency_looks_at_the_frame_before_and_at_the_first() -> None:
    """a, b, b with a and b at right angles: frame 1 scores 0, frame 2 half."""
    features = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 5.0]])
    row = frame_consistency(features)
    assert (row.numerator, row.denominator) == (pytest.approx(0.5), 2.0)


@given(st.integers(0, 10_000), st.floats(0.01, 100))
def test_consistency_is_a_share_and_knows_no_scale(seed: int, scale: float) -> None:
    features = torch.randn(6, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    value = mean(frame_consistency(features))
    assert 0.0 <= value <= 1.0
    assert mean(frame_consistency(features * scale)) == pytest.approx(value)


def test_smoothness_rebuilds_every_second_frame(networks_folder: Path) -> None:
    network = TorchScriptInterpolator(path=str(networks_folder / "middle.pt"))
    assert motion_smoothness(gray([10, 20, 30, 40, 50]), network) == pytest.approx(1.0)
    assert motion_smoothness(gray([10, 26, 30, 40, 50]), network) == pytest.approx((255 - 3) / 255)
    assert motion_smoothness(gray([0, 255, 0]), network) == 0.0
    assert motion_smoothness(gray([0, 255, 0, 9]), network) == 0.0  # the last has no frame after it
    with pytest.raises(ValueError, match="2 others"):
        motion_smoothness(gray([1, 2]), network)


def test_what_is_measured_follows_what_is_given(networks_folder: Path) -> None:
    frames = gray([100] * 25)
    nothing, notes = measure_vbench(frames, frames_per_second=25.0, networks=VBenchNetworks())
    assert (nothing, notes) == ({}, [])
    color = TorchScriptFrameFeatures(path=str(networks_folder / "color.pt"), size=16)
    flow = TorchScriptFlow(path=str(networks_folder / "flow.pt"))
    networks = VBenchNetworks(subject=color, flow=flow)
    values, _ = measure_vbench(frames, frames_per_second=25.0, networks=networks)
    assert set(values) == {"subject_consistency", "dynamic_degree", "temporal_flickering"}
    assert mean(values["subject_consistency"]) == pytest.approx(1.0)
    assert values["dynamic_degree"] == 0.0
    assert values["temporal_flickering"] == 1.0


def test_flickering_is_of_still_clips_and_short_ones_say_nothing(networks_folder: Path) -> None:
    """The flow of these networks is the change of level in pixels."""
    networks = VBenchNetworks(flow=TorchScriptFlow(path=str(networks_folder / "flow.pt")))
    moving, notes = measure_vbench(gray([0, 40] * 12), frames_per_second=8.0, networks=networks)
    assert moving["temporal_flickering"] is None and moving["dynamic_degree"] == 1.0
    assert notes == ["it moves, and temporal flickering is of still clips"]
    short, notes = measure_vbench(gray([50, 50]), frames_per_second=25.0, networks=networks)
    assert short["dynamic_degree"] is None and "at least 3" in notes[0]


def test_the_metric_weighs_consistency_by_frames(networks_folder: Path) -> None:
    """As the published scorer does in one process: the mean over all frames, not over clips."""
    color = TorchScriptFrameFeatures(
        path=str(networks_folder / "color.pt"), size=16, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
    )
    metric = VBench(networks=VBenchNetworks(subject=color), num_resamples=100)
    colors = torch.zeros(2, 16, 16, 3, dtype=torch.uint8)
    colors[0, ..., 0], colors[1, ..., 1] = 255, 255
    metric.update("jump", colors, frames_per_second=25.0)
    metric.update("still", gray([80] * 4), frames_per_second=25.0)
    scores = metric.compute()
    assert scores["subject_consistency"].mean == pytest.approx(3 / 4)
    assert scores["motion_smoothness"].mean is None
