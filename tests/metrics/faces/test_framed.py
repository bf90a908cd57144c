"""A place that is known is taken as it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from hh_train.metrics.faces.framed import FramedFaces
from hh_train.metrics.faces.head import mouth_of_face
from hh_train.types import Clip


def test_the_mouth_of_a_close_up(talking_clip: Callable[..., Clip]) -> None:
    clip = talking_clip()
    face = FramedFaces(box=(0.2, 0.15, 0.8, 0.85)).find(clip.frames)
    assert face is not None and face.coverage == 1.0 and clip.waveform is not None
    assert torch.equal(face.boxes[3], torch.tensor([0.2, 0.15, 0.8, 0.85]))
    loud = clip.waveform.view(-1, 640).square().mean(dim=1).sqrt()
    assert np.corrcoef(mouth_of_face(clip.frames, face).opening.numpy(), loud.numpy())[0, 1] > 0.8


def test_a_box_must_lie_in_the_frame() -> None:
    for box in ((0.5, 0.1, 0.4, 0.9), (0.1, 0.1, 1.2, 0.9), (0.1, 0.1, 0.9)):
        with pytest.raises(ValueError, match="wanted x0 < x1"):
            FramedFaces(box=box)
    assert FramedFaces().fingerprint() != FramedFaces(box=(0.1, 0.1, 0.9, 0.9)).fingerprint()
