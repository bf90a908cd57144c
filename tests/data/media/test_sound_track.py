"""Sound on the clock of a clip: time stamps that jitter, damage, tracks that change, resampling."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.container import InputContainer

from hh_train.data.media.pictures import MediaError
from hh_train.data.media.sound_track import SoundTrack, resample


@pytest.fixture
def container(tmp_path: Path) -> Iterator[InputContainer]:
    """A file with sound of 8 kHz."""
    with av.open(str(tmp_path / "a.wav"), "w") as target:
        sound = target.add_stream("pcm_s16le", rate=8000, layout="mono")
        target.mux(sound.encode(sound_frame(0.0, np.zeros(1600, np.float32), "s16")))
        target.mux(sound.encode())
    with av.open(str(tmp_path / "a.wav")) as source:
        yield source


def sound_frame(seconds: float, samples: np.ndarray, kind: str = "flt", rate: int = 8000) -> av.AudioFrame:
    content = samples if kind.startswith("f") else (samples * 32767).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(content[None]), format=kind, layout="mono")
    frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, 1000), round(seconds * 1000)
    return frame


EVERYWHERE = {"from_seconds": 0.0, "until_seconds": 100.0}


def test_sound_that_jitters_is_joined_and_a_gap_stays(container: InputContainer) -> None:
    track = SoundTrack(container.streams.audio[0])
    tone = np.sin(np.arange(1600) / 5).astype(np.float32)
    for start, stamp in ((0, 0.0), (400, 0.049), (800, 0.102), (1200, 0.4)):
        track.add(sound_frame(stamp, tone[start : start + 400]), **EVERYWHERE)
    sound = track.waveform(0.0, 4000, 8000)
    assert sound is not None
    np.testing.assert_allclose(sound[:1200], tone[:1200], atol=1e-6)
    assert not sound[1200:3200].any()
    np.testing.assert_allclose(sound[3200:3600], tone[1200:], atol=1e-6)


def test_the_kind_of_sound_may_change_within_a_track(container: InputContainer) -> None:
    track = SoundTrack(container.streams.audio[0])
    tone = (0.5 * np.sin(np.arange(800) / 9)).astype(np.float32)
    track.add(sound_frame(0.0, tone), **EVERYWHERE)
    track.add(sound_frame(0.1, tone, "s16"), **EVERYWHERE)
    sound = track.waveform(0.0, 1600, 8000)
    assert sound is not None
    np.testing.assert_allclose(sound, np.concatenate([tone, tone]), atol=1e-4)


def test_sound_that_is_no_number_is_silence(container: InputContainer) -> None:
    track = SoundTrack(container.streams.audio[0])
    track.add(sound_frame(0.0, np.array([0.5, np.nan, np.inf, -np.inf, 3.0, -3.0], np.float32)), **EVERYWHERE)
    sound = track.waveform(0.0, 6, 8000)
    assert sound is not None and sound.tolist() == [0.5, 0.0, 1.0, -1.0, 1.0, -1.0]


def test_lost_sound_is_refused_where_it_matters(container: InputContainer) -> None:
    track = SoundTrack(container.streams.audio[0])
    track.add_damage()
    track.add(sound_frame(0.0, np.zeros(800, np.float32)), from_seconds=0.0, until_seconds=1.0)
    track.add_damage()
    with pytest.raises(MediaError, match="sound is lost"):
        track.add(sound_frame(0.2, np.zeros(800, np.float32)), from_seconds=0.0, until_seconds=1.0)
    track.add_damage()
    track.add(sound_frame(2.0, np.zeros(800, np.float32)), from_seconds=0.0, until_seconds=1.0)


def test_resampling_keeps_time_and_pitch() -> None:
    time = np.arange(44_100) / 44_100
    sound = resample(np.sin(2 * np.pi * 440 * time).astype(np.float32), 44_100, 16_000)
    wanted = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert abs(sound.size - 16_000) <= 1
    assert np.abs(sound[200:15_800] - wanted[200:15_800]).max() < 0.01
