"""What each filter takes out, what it leaves in, and the limit between."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from hh_train.data.selection.filters import Black, ClipFilter, Clipped, Frozen, OutOfSync, Silent, TooShort, Verdict
from hh_train.metrics.sync.offset import OffsetFinding
from hh_train.types import Clip


@dataclass(frozen=True)
class Measured:
    """Finds the same offset in every clip."""

    offset: float | None

    def __call__(self, _: Clip) -> OffsetFinding:
        return OffsetFinding(offset_frames=self.offset, reason="nobody speaks" if self.offset is None else None)

    def settings(self) -> dict[str, Any]:
        return {"offset": self.offset}


FILTERS = (
    TooShort(),
    Black(),
    Frozen(),
    Silent(),
    Clipped(),
    OutOfSync(measure=Measured(1.0)),
)


def noise(num_frames: int = 25, level: float = 255.0) -> Tensor:
    values = torch.rand(num_frames, 48, 64, 3, generator=torch.Generator().manual_seed(0))
    return (values * level).to(torch.uint8)


def tone(num_frames: int = 25, amplitude: float = 0.3) -> Tensor:
    return amplitude * torch.sin(2 * math.pi * 440 * torch.arange(num_frames * 640) / 16_000)


def clip(frames: Tensor | None = None, waveform: Tensor | None = None, *, silent: bool = False) -> Clip:
    pictures = noise() if frames is None else frames
    sound = None if silent else tone(pictures.shape[0]) if waveform is None else waveform
    return Clip(frames=pictures, frames_per_second=25.0, waveform=sound, samples_per_second=16_000)


@pytest.mark.parametrize("judge", FILTERS, ids=lambda judge: type(judge).__name__)
def test_a_usual_clip_passes_and_a_single_picture_too(judge: ClipFilter) -> None:
    assert judge.judge(clip()) == Verdict()
    assert judge.judge(clip(noise(1), silent=True)) == Verdict()
    assert isinstance(judge, ClipFilter)


@pytest.mark.parametrize("judge", FILTERS, ids=lambda judge: type(judge).__name__)
def test_settings_are_plain_values(judge: ClipFilter) -> None:
    assert judge.settings()
    assert json.loads(json.dumps(judge.settings())) == judge.settings()


def test_short_clips() -> None:
    assert TooShort(min_seconds=1.0).reason(clip(noise(21))) == "is too short: 0.84 seconds, wanted 1 at the least"


@pytest.mark.parametrize(("dark", "is_dropped"), [(12, False), (13, True), (25, True)])
def test_black_clips(dark: int, is_dropped: bool) -> None:
    frames = noise()
    frames[:dark] = 16
    reason = Black(max_share=0.5).reason(clip(frames))
    assert (reason is not None) == is_dropped
    assert not is_dropped or reason == f"is black: {dark / 25:.0%} of the frames"


def test_a_small_light_in_the_dark_is_not_black() -> None:
    frames = torch.zeros(25, 48, 64, 3, dtype=torch.uint8)
    frames[:, :12, :16] = 200
    assert Black().reason(clip(frames)) is None


@pytest.mark.parametrize(("still", "is_dropped"), [(13, False), (14, True), (25, True)])
def test_frozen_clips(still: int, is_dropped: bool) -> None:
    frames = noise()
    frames[:still] = frames[0]
    reason = Frozen(max_share=0.5).reason(clip(frames))
    assert (reason is not None) == is_dropped
    assert not is_dropped or reason == f"is frozen: still for {(still - 1) / 24:.0%} of the clip"


def test_film_of_half_the_frame_rate_is_not_frozen() -> None:
    frames = noise()
    frames[1::2] = frames[:-1:2]
    assert Frozen().reason(clip(frames)) is None


@pytest.mark.parametrize(("amplitude", "is_dropped"), [(0.3, False), (0.002, False), (0.0005, True), (0.0, True)])
def test_silent_clips(amplitude: float, is_dropped: bool) -> None:
    assert (Silent(level_dbfs=-60.0).reason(clip(waveform=tone(amplitude=amplitude))) is not None) == is_dropped


def test_silence_is_told_with_its_level() -> None:
    reason = Silent().reason(clip(waveform=tone(amplitude=math.sqrt(2) * 1e-4)))
    assert reason == "is silent: -80 dB of full scale"
    assert Silent().reason(clip(silent=True)) == "is silent: no sound track"


def test_clipped_sound() -> None:
    assert Clipped().reason(clip(waveform=tone(amplitude=3.0).clamp(-1, 1))) is not None
    assert Clipped().reason(clip(waveform=tone(amplitude=1.0).clamp(-1, 1))) is None
    pulses = tone()
    pulses[::100] = 1.0  # one sample at full scale is a peak, not a clipped wave
    assert Clipped().reason(clip(waveform=pulses)) is None
    pulses[: 3 * 50] = 1.0
    assert Clipped(max_share=0.001).reason(clip(waveform=pulses)) == "is clipped: 0.9% of the sound is at full scale"


@pytest.mark.parametrize(("offset", "word"), [(-4.0, "late"), (4.0, "early")])
def test_clips_out_of_sync(offset: float, word: str) -> None:
    verdict = OutOfSync(measure=Measured(offset), max_frames=3.0).judge(clip())
    assert verdict == Verdict(reason=f"is out of sync: the sound is 4.0 frames {word}")


@pytest.mark.parametrize("offset", [0.0, 3.0, -3.0])
def test_clips_in_sync_stay(offset: float) -> None:
    assert OutOfSync(measure=Measured(offset), max_frames=3.0).judge(clip()) == Verdict()


def test_clips_that_cannot_be_judged_stay_and_are_remarked() -> None:
    verdict = OutOfSync(measure=Measured(None)).judge(clip())
    assert verdict == Verdict(remark="stay though it cannot be told whether they are in sync: nobody speaks")


def test_single_pictures_and_silent_clips_are_not_measured() -> None:
    assert OutOfSync(measure=Measured(9.0)).judge(clip(noise(1))) == Verdict()
    assert OutOfSync(measure=Measured(9.0)).judge(clip(silent=True)) == Verdict()


def test_the_measure_is_among_the_settings() -> None:
    assert OutOfSync(measure=Measured(None)).settings() == {"max_frames": 3.0, "measure": {"offset": None}}
