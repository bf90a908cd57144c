"""Sync of whole clips through real files: numbers where they mean something, reasons where they do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hh_train.data.media.files import MediaReader, write_clip
from hh_train.metrics.clip_metric import Row
from hh_train.metrics.measurement import ClipMeasurement
from hh_train.metrics.measurer import Measured, Measurer, Sample
from hh_train.metrics.sync.expert import SyncExpert
from hh_train.metrics.sync.measurer import SyncMeasurer
from hh_train.metrics.sync.syncnet import SyncNet
from hh_train.types import Clip


def measure(measurer: SyncMeasurer, clip: Clip, key: str = "clip") -> Measured:
    return measurer.measure(Sample(key=key, clip=clip, transcript=None, language=None))


@pytest.fixture(scope="module")
def measurer(expert: SyncExpert, tmp_path_factory: pytest.TempPathFactory) -> SyncMeasurer:
    folder = tmp_path_factory.mktemp("expert")
    expert.save(folder)
    return SyncMeasurer(expert=str(folder))


@pytest.mark.parametrize("lead", [-4, 0, 3])
def test_a_file_s_shift_comes_back_by_both_ways(
    measurer: SyncMeasurer, speaker: Callable[..., Clip], tmp_path: Path, lead: int
) -> None:
    write_clip(tmp_path / "clip.mp4", speaker(300, num_frames=61, lead_seconds=lead / 25))
    found = measure(measurer, MediaReader().read(tmp_path / "clip.mp4"))
    values = found.values
    for name in ("offset_frames", "expert_offset_frames"):
        assert values[name] == pytest.approx(lead, abs=0.5)
    assert values["offset_ms"] == pytest.approx(40 * lead, abs=20)
    assert values["within_one_frame"] == values["expert_within_one_frame"] == float(lead == 0)
    assert set(values) <= {m.name for m in measurer.measures}
    assert json.loads(json.dumps(found.details))["mouth_opening"]


def test_what_has_no_meaning_is_undefined_with_its_reason(measurer: SyncMeasurer, speaker: Callable[..., Clip]) -> None:
    moving = speaker(301)
    noise = torch.randint(0, 2, (49, 64, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    cases = {
        "the mouth does not move": speaker(301, mouth="still"),
        "there is no sound": replace(moving, waveform=torch.zeros(49 * 640)),
        "there is no sound ": replace(moving, waveform=None),
        "": replace(moving, frames=noise * 0 + 128),
    }
    for reason, clip in cases.items():
        found = measure(measurer, clip)
        known = {name for name, value in found.values.items() if value is not None}
        assert known <= {"av_align"}, reason
        assert any(note.startswith(f"sync: {reason.strip()}") for note in found.notes), (reason, found.notes)


def test_another_rate_and_a_truncated_track_are_faults(
    measurer: SyncMeasurer, speaker: Callable[..., Clip], tmp_path: Path
) -> None:
    clip = speaker(302)
    assert clip.waveform is not None
    write_clip(tmp_path / "clip.mp4", clip)
    with pytest.raises(ValueError, match="got sound at 48000 Hz; read the clip at 16000 Hz"):
        measure(measurer, MediaReader(samples_per_second=48_000).read(tmp_path / "clip.mp4"))
    with pytest.raises(ValueError, match="got sound at 44100 Hz"):
        measure(measurer, replace(clip, samples_per_second=44_100))
    with pytest.raises(ValueError, match="the sound track is truncated"):
        measure(measurer, replace(clip, waveform=clip.waveform[:16_000]))


def test_chance_is_measured_on_the_set(measurer: SyncMeasurer, speaker: Callable[..., Clip]) -> None:
    clips = []
    for seed in range(6):
        found = measure(measurer, speaker(seed, num_frames=41 + 4 * (seed % 2)), str(seed))
        rows = {name: None if v is None else (v if isinstance(v, Row) else Row(v)) for name, v in found.values.items()}
        clips.append(ClipMeasurement(key=str(seed), values=rows, details=found.details))
    clips.append(ClipMeasurement(key="unreadable", failure="broken"))
    score = measurer.measure_set(clips, clips, seed=0)["swapped_correlation"]
    own = [clip.value("zero_lag_correlation") or 0.0 for clip in clips[:6]]
    assert score.num_clips == 6 and score.mean is not None
    assert score.mean < 0.5 and min(own) > 0.8
    assert measurer.measure_set(clips[:1], clips, seed=0) == {}


def test_networks_that_are_not_given_are_not_in_the_table(
    measurer: SyncMeasurer, expert: SyncExpert, tmp_path: Path
) -> None:
    always = {m.name for m in SyncMeasurer().measures}
    assert isinstance(measurer, Measurer)
    assert {m.name for m in measurer.measures} - always >= {"expert_lse_c", "expert_offset_frames"}
    assert not any(name.startswith(("expert", "lse")) for name in always)
    assert set(SyncMeasurer().protocol()) == {"opencv"}
    assert measurer.protocol()["expert"] == expert.fingerprint()
    torch.save(SyncNet().state_dict(), tmp_path / "syncnet.pth")
    both = SyncMeasurer(syncnet=str(tmp_path / "syncnet.pth"), edge="zero")
    assert "lse_c" in {m.name for m in both.measures} and both.protocol()["syncnet_edge"] == "zero"
