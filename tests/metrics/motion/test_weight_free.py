"""Closed forms of motion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from hh_train.data.media.files import MediaReader, write_clip
from hh_train.metrics.motion.weight_free import Motion, flicker, jerk, landmark_jerk, measure_motion, optical_flow
from hh_train.types import Clip


def gray(levels: list[int], size: int = 32) -> Tensor:
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, size, size, 3).contiguous()


def texture(size: int = 256) -> np.ndarray:
    noise = np.random.default_rng(0).uniform(0, 255, (size, size, 3)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 4)
    return (smooth - smooth.min()) / (smooth.max() - smooth.min()) * 255


def moving(pixels_a_frame: float, frames: int = 6) -> Tensor:
    """A window of 64 pixels gliding over a texture: the picture moves to the left."""
    picture = texture()
    shots = [cv2.getRectSubPix(picture, (64, 64), (80 + i * pixels_a_frame, 128)) for i in range(frames)]
    return torch.from_numpy(np.stack(shots).round().astype(np.uint8))


def test_flicker_of_known_clips() -> None:
    assert flicker(gray([90, 90, 90])) == 1.0
    assert flicker(gray([0, 255, 0, 255])) == 0.0
    assert flicker(gray([10, 11, 12])) == pytest.approx(254 / 255)
    with pytest.raises(ValueError, match="at least 2"):
        flicker(gray([1]))


@pytest.mark.parametrize("speed", [0.5, 1.0, 2.0, 3.0])
def test_a_translation_by_v_pixels_flows_v(speed: float) -> None:
    found = measure_motion(moving(speed), frames_per_second=25.0)
    assert found.flow == pytest.approx(speed / 64 * 25, rel=0.08)
    assert found.warp_error < 0.02
    still = measure_motion(moving(0.0), frames_per_second=25.0)
    assert still.flow == pytest.approx(0.0, abs=1e-3)
    assert still.warp_error == pytest.approx(0.0, abs=1e-4)


@pytest.fixture
def through_a_file(tmp_path: Path) -> Callable[[Tensor], Tensor]:
    """Encodes frames as H.264, as good as without loss, and decodes them."""

    def encode(frames: Tensor) -> Tensor:
        clip = Clip(frames=frames, frames_per_second=25.0, waveform=None, samples_per_second=16_000)
        write_clip(tmp_path / "a.mp4", clip, quality=1)
        return MediaReader(frame_multiple=1, min_frames=2).read(tmp_path / "a.mp4").frames

    return encode


def test_known_answers_through_real_files(through_a_file: Callable[[Tensor], Tensor]) -> None:
    assert flicker(through_a_file(gray([90] * 10))) == 1.0
    assert flicker(through_a_file(gray([0, 255] * 5))) == pytest.approx(0.0, abs=1e-3)
    rising = through_a_file(gray(list(range(40, 80, 4))))
    assert flicker(rising) == pytest.approx(251 / 255, abs=1e-3)
    found = measure_motion(through_a_file(moving(2.0, 10)), frames_per_second=25.0)
    assert found.flow == pytest.approx(2 / 64 * 25, rel=0.08)
    assert found.warp_error < 0.02


def test_large_frames_move_as_small_ones_do() -> None:
    small = moving(1.0, 6)
    large = small.repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
    first, second = (measure_motion(frames, frames_per_second=25.0) for frames in (small, large))
    assert second.flow == pytest.approx(first.flow, rel=0.1)
    assert optical_flow(large).shape == (5, 256, 256, 2)


def test_flow_does_not_explain_noise() -> None:
    noise = torch.randint(0, 256, (5, 64, 64, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert measure_motion(noise, frames_per_second=25.0).warp_error > 0.1


def test_jerk_of_a_cubic_is_its_third_derivative() -> None:
    t = torch.arange(12).double()
    cubic = torch.stack((t**3 / 6, torch.zeros(12)), dim=1).double()
    assert jerk(cubic, frames_per_second=1.0) == pytest.approx(1.0)
    assert jerk(cubic, frames_per_second=5.0) == pytest.approx(125.0)
    diagonal = torch.stack((3 * t**3 / 6 + t**2, 4 * t**3 / 6 - t), dim=1)
    assert jerk(diagonal, frames_per_second=1.0) == pytest.approx(5.0)
    with pytest.raises(ValueError, match="at least 4"):
        jerk(cubic[:3], frames_per_second=1.0)


def test_shaking_has_more_jerk_than_gliding() -> None:
    picture = texture()
    shake = np.random.default_rng(1).uniform(-1.5, 1.5, 12)
    shots = [cv2.getRectSubPix(picture, (64, 64), (100 + s, 128)) for s in shake]
    shaking = torch.from_numpy(np.stack(shots).round().astype(np.uint8))
    glide, tremble = (measure_motion(f, frames_per_second=25.0).jerk for f in (moving(1.0, 12), shaking))
    assert glide is not None and tremble is not None
    assert tremble > 5 * glide


def test_the_metric_averages_clips() -> None:
    metric = Motion()
    metric.update("still", gray([50, 50, 50, 50]), frames_per_second=25.0)
    metric.update("alternating", gray([0, 255, 0, 255]), frames_per_second=25.0)
    metric.update("short", gray([0, 255]), frames_per_second=25.0)
    scores = metric.compute()
    assert scores["flicker"].mean == pytest.approx(1 / 3)
    assert (scores["jerk"].num_clips, scores["jerk"].num_undefined) == (2, 1)


def test_landmarks_that_follow_a_cubic_have_its_jerk_whatever_their_number() -> None:
    t = torch.arange(12).double()
    one = torch.stack((t**3 / 6, torch.zeros(12).double()), dim=1)[:, None]
    assert landmark_jerk(one, frames_per_second=1.0) == pytest.approx(1.0)
    assert landmark_jerk(one.repeat(1, 5, 1), frames_per_second=2.0) == pytest.approx(8.0)
    half_still = torch.cat((one, torch.zeros(12, 1, 2).double()), dim=1)
    assert landmark_jerk(half_still, frames_per_second=1.0) == pytest.approx(1 / 2**0.5)


@pytest.mark.parametrize("speed", [0.5, 1.0])
def test_the_strongest_flow_of_a_translation_is_its_speed(speed: float) -> None:
    """Measured over three frames at 25 fps; a clip of one compared frame has none."""
    found = measure_motion(moving(speed, 13), frames_per_second=25.0)
    assert found.dynamic_flow == pytest.approx(speed / 64 * 25, rel=0.15)
    assert measure_motion(moving(speed, 3), frames_per_second=25.0).dynamic_flow is None
