"""MediaPipe's networks, where their files are; what is said where they are not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hh_train.metrics.faces.head import mouth_of_face
from hh_train.metrics.faces.landmarks import LandmarkFaces
from hh_train.types import Clip

pytest.importorskip("ai_edge_litert", reason="ai-edge-litert (extra `faces`) is not installed")


@pytest.fixture(scope="module")
def finder() -> LandmarkFaces:
    folder = os.environ.get("HH_TRAIN_MEDIAPIPE_MODULES")
    if folder is None:
        pytest.skip("set HH_TRAIN_MEDIAPIPE_MODULES to mediapipe/modules of the package mediapipe 0.10.21")
    return LandmarkFaces(
        detector=str(Path(folder, "face_detection", "face_detection_short_range.tflite")),
        mesh=str(Path(folder, "face_landmark", "face_landmark.tflite")),
    )


def test_landmarks_lie_on_a_drawn_face(finder: LandmarkFaces, talking_clip: Callable[..., Clip]) -> None:
    clip = talking_clip(num_frames=33, size=128)
    face = finder.find(clip.frames)
    assert face is not None and face.landmarks is not None and face.coverage == 1.0
    eyes = face.landmarks[:, [33, 263]].mean(dim=0)
    assert (eyes - torch.tensor([[0.36, 0.42], [0.64, 0.42]])).abs().max() < 0.08
    assert clip.waveform is not None
    loud = clip.waveform.view(-1, 640).square().mean(dim=1).sqrt()
    assert np.corrcoef(mouth_of_face(clip.frames, face).opening.numpy(), loud.numpy())[0, 1] > 0.6


def test_real_and_small_faces(
    finder: LandmarkFaces, real_frames: Callable[[str], torch.Tensor], placed_head: Callable[..., torch.Tensor]
) -> None:
    face = finder.find(real_frames("obama_speech"))
    assert face is not None and face.coverage == 1.0
    assert ((face.boxes[:, :2] + face.boxes[:, 2:]) / 2 - torch.tensor([0.62, 0.21])).abs().max() < 0.12
    small = finder.find(placed_head(head=64, height=256, width=448, corner=(300, 40)))
    assert small is not None and small.coverage > 0.9
    assert finder.find(torch.full((5, 64, 64, 3), 90, dtype=torch.uint8)) is None


def test_wrong_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no .*none\.tflite.*mediapipe 0\.10\.21"):
        LandmarkFaces(detector=str(tmp_path / "none.tflite"), mesh="also none")
    (tmp_path / "text.tflite").write_bytes(b"no network")
    with pytest.raises(ValueError, match=r"text\.tflite cannot be read as a \.tflite network"):
        LandmarkFaces(detector=str(tmp_path / "text.tflite"), mesh="none")
