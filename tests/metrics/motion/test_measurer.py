"""The measurer of motion on a clip that is encoded and decoded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hh_train.data.media.files import MediaReader, write_clip
from hh_train.metrics.faces.track import FaceTrack
from hh_train.metrics.measurer import Sample
from hh_train.metrics.motion.measurer import MotionMeasurer
from hh_train.metrics.motion.motion_networks import TorchScriptFlow
from hh_train.types import Clip


def sample(clip: Clip, **fields: object) -> Sample:
    return Sample(key="clip", clip=clip, transcript=None, language=None, fields=fields)


def test_a_talking_head_through_a_real_file(talking_clip: Callable[..., Clip], tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", talking_clip(num_frames=25))
    clip = MediaReader().read(tmp_path / "a.mp4")
    measurer = MotionMeasurer()
    measured = measurer.measure(sample(clip, description="Close-up, then medium shot of a man."))
    values = measured.values
    assert set(values) <= {measure.name for measure in measurer.measures}
    assert (values["num_cuts"], values["cut_error"]) == (0.0, 1.0)
    assert values["flicker"] == pytest.approx(0.99, abs=0.01)
    assert 0 < float(values["flow"]) < float(values["dynamic_flow"])
    assert float(values["mouth_jerk"]) > 0
    assert "cut_error" not in measurer.measure(sample(clip)).values


def test_a_still_picture_does_not_move() -> None:
    frames = torch.full((9, 64, 64, 3), 120, dtype=torch.uint8)
    still = Clip(frames=frames, frames_per_second=25.0, waveform=None, samples_per_second=16_000)
    values = MotionMeasurer().measure(sample(still)).values
    assert values["flicker"] == 1.0
    assert [values[n] for n in ("flow", "dynamic_flow", "jerk", "num_cuts")] == pytest.approx([0.0] * 4, abs=1e-3)
    with pytest.raises(ValueError, match="at least 2"):
        MotionMeasurer().measure(
            sample(Clip(frames=frames[:1], frames_per_second=25.0, waveform=None, samples_per_second=16_000))
        )


def test_networks_add_measures_and_go_into_the_protocol(networks_folder: Path) -> None:
    plain = MotionMeasurer()
    with_flow = MotionMeasurer(flow=TorchScriptFlow(path=str(networks_folder / "flow.pt")))
    added = {m.name for m in with_flow.measures} - {m.name for m in plain.measures}
    assert added == {"dynamic_degree", "temporal_flickering"}
    assert with_flow.protocol()["flow"].startswith("torchscript ")
    assert set(plain.protocol()) < set(with_flow.protocol())
    frames = torch.full((25, 64, 64, 3), 120, dtype=torch.uint8)
    clip = Clip(frames=frames, frames_per_second=25.0, waveform=None, samples_per_second=16_000)
    assert with_flow.measure(sample(clip)).values["dynamic_degree"] == 0.0


class TremblingFace:
    """A face in every frame, whose 478 landmarks go as the cube of time."""

    def find(self, frames: Tensor) -> FaceTrack:
        count = frames.shape[0]
        t = torch.arange(count, dtype=torch.float32)
        landmarks = torch.stack((t**3 / 6 / 100_000, torch.full((count,), 0.5)), dim=1)[:, None].repeat(1, 478, 1)
        box = torch.tensor([0.2, 0.1, 0.8, 0.9]).repeat(count, 1)
        return FaceTrack(boxes=box, is_seen=torch.ones(count, dtype=torch.bool), landmarks=landmarks)

    def fingerprint(self) -> str:
        return "trembling"


def test_landmarks_tremble_in_short_sides(talking_clip: Callable[..., Clip]) -> None:
    """A frame that is twice as wide as high: a hundred thousandth of its width is two of its height."""
    square = talking_clip(num_frames=25)
    wide = Clip(
        frames=torch.cat((square.frames, square.frames), dim=2), frames_per_second=10.0, waveform=None,
        samples_per_second=16_000,
    )  # fmt: skip
    found = Sample(key="clip", clip=wide, transcript=None, language=None, faces=TremblingFace())
    assert MotionMeasurer().measure(found).values["landmark_jerk"] == pytest.approx(2e-5 * 10**3, rel=1e-2)
