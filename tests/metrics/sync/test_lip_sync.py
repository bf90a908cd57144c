"""Known shifts come back with their sign, through a real file; what has no answer gets none."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from hh_train.data.media.files import MediaReader, write_clip
from hh_train.metrics.faces.mouth import track_mouth
from hh_train.metrics.sync.lip_sync import (
    LipSync,
    SyncMeasurement,
    circular_p_value,
    loudness_track,
    measure_sync,
    swapped_correlations,
)
from hh_train.types import Clip


def measured(clip: Clip) -> SyncMeasurement:
    opening = track_mouth(clip.frames).opening
    return measure_sync(opening, clip.waveform, samples_per_second=16_000, frames_per_second=clip.frames_per_second)


@pytest.mark.parametrize("shift", [-5, -2, 0, 3, 5])
def test_a_shift_comes_back_through_a_file(talking_clip: Callable[..., Clip], tmp_path: Path, shift: int) -> None:
    """Positive: the sound leads."""
    offsets = []
    for seed in range(4):
        path = tmp_path / f"{seed}.mp4"
        write_clip(path, talking_clip(seed=seed, sound_leads=shift))
        found = measured(MediaReader().read(path))
        assert found.offset_frames is not None
        offsets.append(found.offset_frames)
    assert np.abs(np.array(offsets) - shift).max() <= 0.75


def test_in_step_correlates_and_swapped_sound_does_not(talking_clip: Callable[..., Clip]) -> None:
    clips = [talking_clip(seed=seed, num_frames=41 + 4 * (seed % 3)) for seed in range(8)]
    zero_lag = [measured(clip).zero_lag_correlation for clip in clips]
    loudness = [loudness_track(c.waveform, samples_per_second=16_000, frames_per_second=25.0) for c in clips]
    swapped = swapped_correlations([track_mouth(clip.frames).opening for clip in clips], loudness)
    assert len(swapped) == 8
    assert min(r for r in zero_lag if r is not None) > 0.7
    assert float(np.mean(swapped)) < 0.4


def test_a_still_mouth_and_silence_are_undefined_and_counted(talking_clip: Callable[..., Clip]) -> None:
    metric = LipSync()
    rates = {"samples_per_second": 16_000, "frames_per_second": 25.0}
    moving, still = talking_clip(), talking_clip(mouth="still")
    metric.update("moving", moving.frames, moving.waveform, **rates)
    metric.update("still", still.frames, still.waveform, **rates)
    metric.update("silent", moving.frames, torch.zeros(49 * 640), **rates)
    metric.update("no track", moving.frames, None, **rates)
    score = metric.compute()["within_one_frame"]
    assert (score.mean, score.num_clips, score.num_undefined) == (1.0, 1, 3)
    assert measured(still).reason == "the mouth does not move"


def test_a_mouth_that_matches_nothing_is_out_of_step() -> None:
    generator = torch.Generator().manual_seed(0)
    opening = (torch.arange(50) % 2).float()
    steady = torch.randn(50 * 640, generator=generator) * 0.1 * torch.linspace(0.1, 1, 50 * 640)
    found = measure_sync(opening, steady, samples_per_second=16_000, frames_per_second=25.0)
    assert found.zero_lag_correlation is not None and abs(found.zero_lag_correlation) < 0.3
    assert found.offset_frames is None and found.is_within(1.0) is False


def test_closed_form_of_a_shift() -> None:
    """Opening and loudness from one formula: the offset is exact to a quarter frame, the correlation one."""
    frames = torch.arange(60)
    level = torch.sin(frames / 3.1) + torch.sin(frames / 7.7)
    times = torch.arange(60 * 640) / 640 - 0.5
    exponent = torch.sin(times / 3.1) + torch.sin(times / 7.7)
    sound = 0.05 * torch.sqrt(10**exponent) * (1 - 2 * (torch.arange(60 * 640) % 2))
    found = measure_sync(level, sound, samples_per_second=16_000, frames_per_second=25.0)
    assert found.zero_lag_correlation == pytest.approx(1.0, abs=0.01)
    assert found.offset_frames == 0.0
    late = torch.cat((sound[:1].expand(1280), sound[:-1280]))
    assert measure_sync(level, late, samples_per_second=16_000, frames_per_second=25.0).offset_frames == -2.0


@pytest.mark.parametrize("fps", [24.0, 25.0, 30.0])
@pytest.mark.parametrize("lead_frames", [-6.0, -2.5, 0.0, 0.5, 4.0])
def test_a_shift_comes_back_at_any_frame_rate(
    speaker: Callable[..., Clip], tmp_path: Path, fps: float, lead_frames: float
) -> None:
    """Written and read as a file with AAC sound, at its own rate and turned into 25 frames a second; halves too."""
    path = tmp_path / "clip.mp4"
    errors = []
    for seed in range(3):
        made = speaker(seed, num_frames=61, frames_per_second=fps, lead_seconds=lead_frames / fps)
        write_clip(path, made)
        for rate in (fps, 25.0):
            found = measured(MediaReader(frames_per_second=rate).read(path)).offset_frames
            assert found is not None
            errors.append(abs(found / rate - lead_frames / fps) * fps)
    assert max(errors) <= 0.5


def test_the_distance_grows_with_the_shift(speaker: Callable[..., Clip]) -> None:
    """At every half frame."""
    clips = [speaker(5, num_frames=61, lead_seconds=k / 100) for k in range(0, 25, 2)]
    distances = [measured(clip).offset_frames or 0.0 for clip in clips]
    assert all(later >= earlier for earlier, later in pairwise(distances))
    assert distances[-1] == pytest.approx(6.0, abs=0.5)


def test_another_clip_s_sound_is_mostly_not_significant(speaker: Callable[..., Clip]) -> None:
    own, other, correlations = [], [], []
    for seed in range(12):
        own.append(measured(speaker(seed, num_frames=61)).p_value)
        found = measured(speaker(seed, num_frames=61, said_by=seed + 50))
        other.append(found.p_value)
        correlations.append(found.zero_lag_correlation)
    assert all(p is not None and p < 0.05 for p in own)
    assert sum(p is not None and p > 0.05 for p in other) >= 9
    assert abs(float(np.mean([r for r in correlations if r is not None]))) < 0.3


def test_closed_forms_of_the_p_value() -> None:
    """A match that no move reaches gives one over the moves and one; a sound that always matches alike gives one."""
    opening = torch.zeros(40)
    opening[7], opening[23] = 1.0, 2.0
    track = torch.repeat_interleave(opening, 4)
    assert circular_p_value(opening, track) == pytest.approx(1 / (1 + (40 - 8) * 4 + 1))
    assert circular_p_value(torch.ones(40), track) == 1.0
    assert circular_p_value(opening[:15], track[:60]) is None
