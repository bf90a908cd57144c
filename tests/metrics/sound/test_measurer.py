"""The measurer of sound on clips that are encoded, decoded and broken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hh_train.data.media.files import MediaReader, write_clip
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurer import Sample
from hh_train.metrics.sound.measurer import SoundMeasurer
from hh_train.types import Clip


class Loudest:
    """An estimator of one number."""

    measures = (Measure(name="loudest", title="loudest"),)

    def score(self, waveform: torch.Tensor) -> dict[str, float]:
        if waveform.shape[0] < 8000:
            raise ValueError("too short for an estimate")
        return {"loudest": float(waveform.abs().max())}

    def fingerprint(self) -> str:
        return "loudest 1"


def tone(*, frames: int = 25, samples: int = 16_000, rate: int = 16_000) -> Clip:
    return Clip(
        frames=torch.full((frames, 32, 32, 3), 90, dtype=torch.uint8),
        frames_per_second=25.0,
        waveform=0.5 * torch.sin(torch.arange(samples) * 2 * torch.pi * 440 / rate),
        samples_per_second=rate,
    )


def sample(clip: Clip) -> Sample:
    return Sample(key="clip", clip=clip, transcript=None, language=None)


def file_sample(path: Path) -> Sample:
    return Sample(key="clip", clip=MediaReader().read(path), transcript=None, language=None, path=path)


def test_a_tone_through_a_real_file(tmp_path: Path) -> None:
    write_clip(tmp_path / "a.mp4", tone())
    measurer = SoundMeasurer(quality=[Loudest()])
    values = measurer.measure(sample(MediaReader().read(tmp_path / "a.mp4"))).values
    assert values["loudness_db"] == pytest.approx(-9.03, abs=0.3)
    assert values["loudest"] == pytest.approx(0.5, abs=0.1)
    assert values["silence_share"] == pytest.approx(0.0, abs=0.05)
    assert set(values) <= {measure.name for measure in measurer.measures}
    assert "loudest" not in {measure.name for measure in SoundMeasurer().measures}
    assert measurer.protocol()["Loudest"] == "loudest 1"


def test_what_cannot_be_measured_is_said() -> None:
    measurer = SoundMeasurer(quality=[Loudest()])
    silent = measurer.measure(sample(replace(tone(), waveform=None)))
    assert not silent.values and silent.notes == ["it has no sound track"]
    short = measurer.measure(sample(tone(frames=9, samples=5760)))
    assert "loudest" not in short.values and short.values["lufs"] is None
    assert short.notes == ["it is too quiet or too short for loudness in LUFS", "too short for an estimate"]
    with pytest.raises(ValueError, match="44100 Hz"):
        measurer.measure(sample(tone(samples=44_100, rate=44_100)))
    with pytest.raises(ValueError, match="truncated"):
        measurer.measure(sample(tone(samples=8000)))


@pytest.mark.parametrize(
    ("written", "difference", "words"),
    [
        (tone(), 0.0, ""),
        (tone(frames=125, samples=5 * 44_100, rate=24_000), 4.19, "ends 4.19 s after"),
        (tone(frames=25, samples=8000), 0.5, "ends 0.50 s before"),
    ],
)
def test_tracks_of_different_length_are_told_by_the_file(
    tmp_path: Path, written: Clip, difference: float, words: str
) -> None:
    """Decoded, they are of one length: a truncated track goes on in silence, of which nothing is measured."""
    write_clip(tmp_path / "a.mp4", written)
    measured = SoundMeasurer().measure(file_sample(tmp_path / "a.mp4"))
    assert measured.values["duration_difference"] == pytest.approx(difference, abs=0.01)
    assert words in " ".join(measured.notes) and bool(measured.notes) == bool(words)
    assert ("silence_share" in measured.values) == ("before" not in words)
