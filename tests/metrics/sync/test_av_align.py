"""Moments match one to one, so that the share is never above one; clicks and jumps are found where they were put."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hh_train.data.media.files import MediaReader, write_clip
from hh_train.metrics.sync.av_align import AVAlign, av_align, flow_peaks, matched_share, onsets
from hh_train.types import Clip

moments = st.lists(st.integers(0, 40).map(lambda step: step / 25), max_size=6)


def best_by_trial(first: list[float], second: list[float], tolerance: float) -> int:
    """The largest number of one-to-one matches, over all assignments."""
    few, many = sorted((first, second), key=len)
    return max(
        sum(abs(a - b) <= tolerance + 1e-9 for a, b in zip(few, order, strict=False)) for order in permutations(many)
    )


@given(moments, moments)
def test_as_many_moments_match_as_can(first: list[float], second: list[float]) -> None:
    found = matched_share(first, second, tolerance=1 / 25)
    if not first and not second:
        assert found is None
        return
    common = best_by_trial(first, second, 1 / 25)
    assert found == pytest.approx(common / (len(first) + len(second) - common))
    assert 0.0 <= found <= 1.0


def test_three_onsets_at_one_peak_count_once() -> None:
    assert matched_share([1.0, 1.02, 1.03], [1.01], tolerance=0.04) == pytest.approx(1 / 3)
    assert matched_share([0.5], [], tolerance=0.04) == 0.0


def clicks(at: list[float], seconds: float) -> torch.Tensor:
    sound = 1e-4 * torch.randn(round(seconds * 16_000), generator=torch.Generator().manual_seed(0))
    for moment in at:
        start = round(moment * 16_000)
        sound[start : start + 800] += 0.4 * torch.sin(torch.arange(800) * 0.5) * torch.linspace(1, 0, 800)
    return sound


def jumping_square(at: list[int], num_frames: int) -> torch.Tensor:
    """A square that jumps by three pixels between frames i - 1 and i for each i of `at`."""
    frames = torch.zeros(num_frames, 64, 64, 3, dtype=torch.uint8)
    place = 8
    for i in range(num_frames):
        place += 3 * (i in at)
        frames[i, 20:44, place : place + 24] = torch.arange(24, dtype=torch.uint8)[:, None, None] * 9 + 40
    return frames


def test_onsets_and_jumps_are_found_where_they_are() -> None:
    heard = onsets(clicks([0.4, 0.8, 1.6], 2.0))
    assert len(heard) == 3 and max(abs(a - b) for a, b in zip(heard, [0.4, 0.8, 1.6], strict=True)) <= 0.03
    assert onsets(torch.zeros(16_000)) == []
    seen = flow_peaks(jumping_square([10, 20, 40], 50), frames_per_second=25.0)
    assert seen == pytest.approx([0.4, 0.8, 1.6])
    assert flow_peaks(jumping_square([], 50), frames_per_second=25.0) == []


@pytest.mark.parametrize("fps", [24.0, 25.0, 30.0])
def test_events_that_coincide_score_one_through_a_file(tmp_path: Path, fps: float) -> None:
    jumps = [10, 20, 40]
    metric = AVAlign()
    for name, delay in (("together", 0.0), ("apart", 0.2)):
        clip = Clip(
            frames=jumping_square(jumps, 53),
            frames_per_second=fps,
            waveform=clicks([jump / fps + delay for jump in jumps], 53 / fps),
            samples_per_second=16_000,
        )
        write_clip(tmp_path / f"{name}.mp4", clip)
        metric.update(name, MediaReader(frames_per_second=fps).read(tmp_path / f"{name}.mp4"))
        expected = 1.0 if name == "together" else 0.0
        assert av_align(MediaReader(frames_per_second=fps).read(tmp_path / f"{name}.mp4")) == expected
    assert metric.compute()["av_align"].mean == 0.5


def test_without_sound_it_is_undefined() -> None:
    still = jumping_square([], 25)
    silent = Clip(frames=still, frames_per_second=25.0, waveform=None, samples_per_second=16_000)
    nothing = Clip(frames=still, frames_per_second=25.0, waveform=torch.zeros(16_000), samples_per_second=16_000)
    assert av_align(silent) is None and av_align(nothing) is None
