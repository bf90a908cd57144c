"""Known offsets are found where mouth and sound belong together, and hardly ever where they do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from hh_train.data.media.files import MediaReader
from hh_train.metrics.faces.cascade import CascadeFaces
from hh_train.metrics.faces.head import mouth_of_face
from hh_train.metrics.sync.lip_sync import STEPS_PER_FRAME
from hh_train.metrics.sync.offset import decide_offset, find_offset, matches, mouth_signal, voice_track

NUM_FRAMES = 151


def syllables(seed: int, num_steps: int = NUM_FRAMES * STEPS_PER_FRAME) -> np.ndarray:
    """Four a second, of random heights: what a mouth and a voice do."""
    heights = np.random.default_rng(seed).random(num_steps // 24 + 2)
    return np.interp(np.arange(num_steps) / 24, np.arange(len(heights)), heights)


def seen(track: np.ndarray, seed: int, noise: float = 0.15) -> np.ndarray:
    return track[2::STEPS_PER_FRAME] + noise * np.random.default_rng(seed).standard_normal(NUM_FRAMES)


@pytest.mark.parametrize("quarters", [-40, -11, 0, 6, 40])
def test_a_known_offset_is_found_to_a_quarter_of_a_frame(quarters: int) -> None:
    """Positive: the sound leads, so that what is heard at a moment is seen later."""
    for seed in range(5):
        track = syllables(seed)
        heard = np.roll(track, -quarters)
        found = decide_offset(seen(track, seed), heard)
        assert found.offset_frames == pytest.approx(quarters / STEPS_PER_FRAME, abs=0.5)
        assert found.reason is None


def test_strangers_are_hardly_ever_matched() -> None:
    """By two questions at a level of 1 % each: 2 % at the most, of which 200 trials show 5 % once in 400 cases. Where
    nothing belongs together, the errors are of unit size.
    """
    pairs = [(seen(syllables(seed), seed), syllables(10_000 + seed)) for seed in range(200)]
    found = [decide_offset(mouth, track) for mouth, track in pairs]
    assert sum(one.offset_frames is not None for one in found) < 10
    assert {one.reason for one in found if one.offset_frames is None} == {"lips and sound match nowhere beyond chance"}
    errors = np.array([matches(mouth, track)[1][60] for mouth, track in pairs])
    assert abs(errors.mean()) < 0.25
    assert 0.75 < errors.std() < 1.2


def test_a_voice_is_heard_through_a_rumble() -> None:
    time = torch.arange(32_000) / 16_000
    gate = (time % 0.5 < 0.25).float()
    rumble = 0.5 * torch.sin(2 * torch.pi * 40 * time)
    track = voice_track(
        rumble + 0.05 * gate * torch.sin(2 * torch.pi * 800 * time), samples_per_second=16_000, frames_per_second=25.0
    )
    loud = gate[:: 16_000 // 100][: len(track)].numpy() > 0
    assert track[loud].mean() - track[~loud].mean() > 0.8


def test_short_silent_and_still_clips_are_told(real_clip: Callable[[str], Path]) -> None:
    clip = MediaReader(size=(240, 320)).read(real_clip("jwpIntro"), max_frames=60)
    face = CascadeFaces().find(clip.frames)
    assert face is not None

    def why(frames: torch.Tensor, waveform: torch.Tensor | None) -> str | None:
        found = find_offset(frames, face, waveform, samples_per_second=16_000, frames_per_second=25.0)
        assert found.offset_frames is None
        return found.reason

    assert why(clip.frames[:49], clip.waveform) == "fewer than 50 frames"
    assert why(clip.frames, None) == "there is no sound"
    assert why(clip.frames[:1].repeat(len(clip.frames), 1, 1, 1), clip.waveform) == "the mouth does not move"


@pytest.mark.parametrize("name", ["jwpIntro", "testMovie", "obama_speech"])
def test_real_speakers_are_in_step_where_they_are_and_apart_where_the_sound_was_moved(
    real_clip: Callable[[str], Path], name: str
) -> None:
    clip = MediaReader().read(real_clip(name), max_frames=217)
    face = CascadeFaces().find(clip.frames)
    assert face is not None and clip.waveform is not None
    mouth = mouth_signal(clip.frames, face, mouth_of_face(clip.frames, face).opening)
    for delay in (0, -9, 9):
        moved = torch.roll(clip.waveform, delay * 640)
        found = decide_offset(mouth, voice_track(moved, samples_per_second=16_000, frames_per_second=25.0))
        if delay == 0 or found.offset_frames is not None:
            assert found.offset_frames == pytest.approx(-delay, abs=2.0)
