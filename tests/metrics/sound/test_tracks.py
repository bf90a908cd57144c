"""Real files whose tracks differ in length, and clips that lack sound."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hh_train.data.media.files import write_clip
from hh_train.metrics.sound.tracks import require_sound, track_seconds
from hh_train.types import Clip


def clip(
    *, frames: int = 50, rate: float = 25.0, samples: int | None = 32_000, samples_per_second: int = 16_000
) -> Clip:
    return Clip(
        frames=torch.full((frames, 32, 32, 3), 90, dtype=torch.uint8),
        frames_per_second=rate,
        waveform=None if samples is None else 0.1 * torch.sin(torch.arange(samples) / 20),
        samples_per_second=samples_per_second,
    )


@pytest.mark.parametrize("rate", [24.0, 25.0, 30.0])
def test_tracks_of_one_length(tmp_path: Path, rate: float) -> None:
    write_clip(tmp_path / "a.mp4", clip(frames=60, rate=rate, samples=round(60 / rate * 16_000)))
    found = track_seconds(tmp_path / "a.mp4")
    assert found.picture == pytest.approx(60 / rate, abs=1e-3)
    assert found.difference == pytest.approx(0.0, abs=1e-3)


def test_sound_written_at_the_wrong_rate_goes_on_after_the_picture(tmp_path: Path) -> None:
    """5 s of 44.1 kHz, written as 24 kHz."""
    write_clip(tmp_path / "a.mp4", clip(frames=125, samples=5 * 44_100, samples_per_second=24_000))
    found = track_seconds(tmp_path / "a.mp4")
    assert found.sound == pytest.approx(5 * 44_100 / 24_000, abs=0.01)
    assert found.difference == pytest.approx(4.1875, abs=0.01)


def test_a_truncated_track_and_none(tmp_path: Path) -> None:
    write_clip(tmp_path / "short.mp4", clip(samples=12_800))
    assert track_seconds(tmp_path / "short.mp4").difference == pytest.approx(-1.2, abs=0.01)
    write_clip(tmp_path / "mute.mp4", clip(samples=None))
    assert track_seconds(tmp_path / "mute.mp4").difference is None


def test_what_is_no_film_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no film")
    for name in ("text.mp4", "missing.mp4"):
        with pytest.raises(ValueError, match="cannot be read"):
            track_seconds(tmp_path / name)


def test_the_sound_of_a_decoded_clip_must_be_whole_and_at_16_khz() -> None:
    whole = clip()
    assert whole.waveform is not None
    assert torch.equal(require_sound(whole), whole.waveform)
    for broken, words in (
        (clip(samples=None), "no sound track"),
        (clip(samples_per_second=48_000), "48000 Hz; read the clip at 16000"),
        (clip(samples=24_000), "truncated: 1.50 s of sound for 2.00 s"),
        (clip(samples=40_000), "goes on after"),
    ):
        with pytest.raises(ValueError, match=words):
            require_sound(broken)


@pytest.mark.parametrize(
    ("samples", "rate", "is_right"),
    [(16_000, 16_000, True), (15_000, 16_000, True), (44_100, 24_000, False), (8_000, 16_000, False)],
)
def test_sound_of_another_length_is_refused(tmp_path: Path, samples: int, rate: int, is_right: bool) -> None:
    """One second of picture; 44,100 samples at 24 kHz are a second's sound that plays slowly."""
    write_clip(tmp_path / "a.mp4", clip(frames=25, samples=samples, samples_per_second=rate))
    if is_right:
        track_seconds(tmp_path / "a.mp4").require_match()
        return
    with pytest.raises(ValueError, match=r"its sound lasts .* s and its picture 1\.00 s: a truncated track, or one"):
        track_seconds(tmp_path / "a.mp4").require_match()
