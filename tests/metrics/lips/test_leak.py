"""A mouth that moves in silence leaks; one that rests in the pauses does not. On encoded files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hh_train.data.media.files import MediaReader, write_clip
from hh_train.metrics.lips.leak import LeakMeasurement, LipLeak, measure_leak, silent_frames
from hh_train.metrics.measurer import Sample
from hh_train.types import Clip

Clips = Callable[..., Clip]


@pytest.fixture
def leak(tmp_path: Path) -> Callable[[Clip], LeakMeasurement]:
    """Of a clip after encoding and decoding."""

    def measure(clip: Clip) -> LeakMeasurement:
        write_clip(tmp_path / "clip.mp4", clip)
        read = MediaReader().read(tmp_path / "clip.mp4")
        mouth = Sample(key="clip", clip=read, transcript=None, language=None).mouth
        return measure_leak(mouth.opening, read.waveform, samples_per_second=16_000, frames_per_second=25.0)

    return measure


def silent(clip: Clip) -> Clip:
    assert clip.waveform is not None
    return replace(clip, waveform=torch.zeros_like(clip.waveform))


def test_a_moving_mouth_under_silence_leaks(talking_clip: Clips, leak: Callable[[Clip], LeakMeasurement]) -> None:
    found = leak(silent(talking_clip()))
    assert found.silent_frames == 49 and found.row is not None
    assert found.row.numerator / found.row.denominator > 0.7


def test_a_still_mouth_under_silence_does_not(talking_clip: Clips, leak: Callable[[Clip], LeakMeasurement]) -> None:
    found = leak(silent(talking_clip(mouth="still")))
    assert (found.silent_frames, found.moving_frames) == (49, 0)


def test_half_of_the_sound_taken_away(talking_clip: Clips, leak: Callable[[Clip], LeakMeasurement]) -> None:
    clip = talking_clip(num_frames=97)
    assert clip.waveform is not None
    waveform = clip.waveform.clone()
    waveform[48 * 640 :] = 0
    honest, leaking = leak(clip), leak(replace(clip, waveform=waveform))
    assert 36 <= leaking.silent_frames - honest.silent_frames <= 49
    assert leaking.moving_frames > 0.7 * 36
    assert honest.reason is not None or honest.moving_frames <= 0.2 * honest.silent_frames


def test_silence_is_counted_away_from_sound() -> None:
    waveform = torch.zeros(50 * 640)
    waveform[20 * 640 : 30 * 640] = 0.1 * torch.sin(torch.arange(6400) / 5)
    waveform += 0.0005 * torch.sin(torch.arange(50 * 640) / 7)
    found = silent_frames(waveform, num_frames=50, samples_per_second=16_000, frames_per_second=25.0)
    assert found.nonzero()[:, 0].tolist() == [*range(15), *range(35, 50)]
    short = silent_frames(waveform[: 30 * 640], num_frames=50, samples_per_second=16_000, frames_per_second=25.0)
    assert torch.equal(short, found)


def test_what_is_undefined_is_counted() -> None:
    opening = torch.arange(50).remainder(2).float()
    loud = 0.1 * torch.sin(torch.arange(50 * 640) / 5)
    metric = LipLeak()
    rates = {"samples_per_second": 16_000, "frames_per_second": 25.0}
    metric.update("moving", opening, torch.zeros(50 * 640), **rates)
    metric.update("still", torch.zeros(50), torch.zeros(50 * 640), **rates)
    metric.update("loud", opening, loud, **rates)
    metric.update("mute", opening, None, **rates)
    score = metric.compute()["lip_leak"]
    assert (score.mean, score.num_clips, score.num_undefined) == (0.5, 2, 2)
    assert measure_leak(opening, loud, **rates).reason == "0 frames of silence, fewer than 4"
    assert measure_leak(opening, None, **rates).reason == "there is no sound track"
