"""Media written by PyAV, read back: which frame, which moment of sound, which part of the picture; what is refused."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from hh_train.data.media import MediaError, MediaReader, resample, resize_and_crop, write_clip
from hh_train.types import Clip

BURST_SECONDS = 0.5


def gray_of(index: int) -> int:
    """The shade of source frame `index`: far enough apart to survive any codec."""
    return 20 + 4 * index


def record(
    path: Path,
    *,
    video_codec: str | None = "libx264",
    audio_codec: str | None = "aac",
    num_frames: int = 25,
    rate: int = 25,
    sound_rate: int = 48_000,
    layout: str = "stereo",
    first_frame_seconds: float = 0.0,
) -> Path:
    """Frames of rising gray; one second or more of silence with a loud burst of 40 ms at `BURST_SECONDS`."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream(video_codec, rate=rate) if video_codec else None
        sound = container.add_stream(audio_codec, rate=sound_rate, layout=layout) if audio_codec else None
        if picture is not None:
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
            for index in range(num_frames):
                image = np.full((48, 64, 3), gray_of(index), np.uint8)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.time_base = Fraction(1, rate)
                frame.pts = index + round(first_frame_seconds * rate)
                container.mux(picture.encode(frame))
            container.mux(picture.encode())
        if sound is not None:
            time = np.arange(round(sound_rate * max(1.0, first_frame_seconds + num_frames / rate))) / sound_rate
            burst = (time >= BURST_SECONDS) & (time < BURST_SECONDS + 0.04)
            mono = np.where(burst, 0.8 * np.sin(2 * np.pi * 1000 * time), 0).astype(np.float32)
            channels = 2 if layout == "stereo" else 1
            for start in range(0, mono.size, 960):
                piece = np.ascontiguousarray(np.repeat(mono[None, start : start + 960], channels, axis=0))
                block = av.AudioFrame.from_ndarray(piece, format="fltp", layout=layout)
                block.sample_rate, block.time_base, block.pts = sound_rate, Fraction(1, sound_rate), start
                for fitting in av.AudioResampler(format=sound.format, layout=layout, rate=sound_rate).resample(block):
                    container.mux(sound.encode(fitting))
            container.mux(sound.encode())
    return path


def grays(clip: Clip) -> list[float]:
    return clip.frames.float().mean((1, 2, 3)).tolist()


def burst_start_seconds(clip: Clip) -> float:
    assert clip.waveform is not None
    loud = (clip.waveform.abs() > 0.3).nonzero()
    return float(loud[0]) / clip.samples_per_second


@pytest.mark.parametrize(
    ("name", "video_codec", "audio_codec"),
    [
        ("a.mp4", "libx264", "aac"),
        ("a.mov", "mpeg4", "pcm_s16le"),
        ("a.mkv", "libx264", "flac"),
        ("a.webm", "libvpx-vp9", "libopus"),
        ("a.avi", "mpeg4", "pcm_s16le"),
    ],
)
def test_containers_and_codecs(tmp_path: Path, name: str, video_codec: str, audio_codec: str) -> None:
    clip = MediaReader().read(record(tmp_path / name, video_codec=video_codec, audio_codec=audio_codec))
    assert clip.frames.shape == (25, 48, 64, 3)
    assert clip.waveform is not None and clip.waveform.shape == (16_000,)
    assert grays(clip) == pytest.approx([gray_of(index) for index in range(25)], abs=4)
    assert burst_start_seconds(clip) == pytest.approx(BURST_SECONDS, abs=0.003)


@pytest.mark.parametrize(
    ("rate", "num_frames", "sources"),
    [
        (50, 50, [2 * tick for tick in range(25)]),
        (5, 5, [min(4, (tick + 2) // 5) for tick in range(25)]),  # 40 ms ticks, 200 ms frames
    ],
)
def test_frames_are_the_nearest_in_time(tmp_path: Path, rate: int, num_frames: int, sources: list[int]) -> None:
    clip = MediaReader().read(record(tmp_path / "a.mp4", rate=rate, num_frames=num_frames, audio_codec=None))
    assert grays(clip) == pytest.approx([gray_of(source) for source in sources], abs=2)


def test_sound_is_placed_by_its_time_stamps(tmp_path: Path) -> None:
    clip = MediaReader().read(record(tmp_path / "a.mkv", audio_codec="flac", first_frame_seconds=0.4))
    assert burst_start_seconds(clip) == pytest.approx(BURST_SECONDS - 0.4, abs=0.003)
    assert grays(clip)[0] == pytest.approx(gray_of(0), abs=3)


@pytest.mark.parametrize(("num_frames", "kept"), [(5, 5), (8, 5), (9, 9), (12, 9), (24, 21)])
def test_clips_have_4k_plus_1_frames(tmp_path: Path, num_frames: int, kept: int) -> None:
    clip = MediaReader().read(record(tmp_path / "a.mp4", num_frames=num_frames))
    assert clip.frames.shape[0] == kept
    assert clip.waveform is not None and clip.waveform.shape == (kept * 640,)


def test_long_clips_are_cut_and_short_sound_is_filled(tmp_path: Path) -> None:
    path = record(tmp_path / "a.mp4", num_frames=37)
    clip = MediaReader(max_frames=13).read(path)
    assert grays(clip) == pytest.approx([gray_of(index) for index in range(13)], abs=3)
    assert clip.waveform is not None and clip.waveform.shape == (13 * 640,)


def test_a_wide_picture_is_cropped_about_its_center() -> None:
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, 40:80] = (255, 0, 0)
    square = resize_and_crop(pixels, height=20, width=20)
    assert square.shape == (20, 20, 3)
    assert (square == (255, 0, 0)).all()
    tall = resize_and_crop(np.ascontiguousarray(pixels.transpose(1, 0, 2)), height=30, width=60)
    assert tall.shape == (30, 60, 3)
    assert (tall[5:-5] == (255, 0, 0)).all()


def test_the_size_is_the_readers(tmp_path: Path) -> None:
    assert MediaReader(size=(32, 24)).read(record(tmp_path / "a.mp4")).frames.shape[1:3] == (32, 24)


def test_silent_video_is_a_clip_without_waveform(tmp_path: Path) -> None:
    assert MediaReader().read(record(tmp_path / "a.mp4", audio_codec=None)).waveform is None


def test_what_is_no_clip_is_refused_with_the_reason(tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("this is no video")
    empty = tmp_path / "empty.mp4"
    empty.touch()
    truncated = tmp_path / "truncated.mp4"
    whole = record(tmp_path / "whole.mp4").read_bytes()
    truncated.write_bytes(whole[: len(whole) // 2])
    for path in (text, empty, truncated, tmp_path / "missing.mp4"):
        with pytest.raises(MediaError, match="cannot be read as media"):
            MediaReader().read(path)
    with pytest.raises(MediaError, match="no picture"):
        MediaReader().read(record(tmp_path / "sound.m4a", video_codec=None))
    with pytest.raises(MediaError, match="too short: 4 frames"):
        MediaReader().read(record(tmp_path / "short.mp4", num_frames=4))


def test_resampling_keeps_time_and_pitch() -> None:
    time = np.arange(44_100) / 44_100
    sound = resample(np.sin(2 * np.pi * 440 * time).astype(np.float32), 44_100, 16_000)
    wanted = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert abs(sound.size - 16_000) <= 1
    assert np.abs(sound[200:15_800] - wanted[200:15_800]).max() < 0.01


def moving_square(num_frames: int = 13, height: int = 48, width: int = 64) -> Clip:
    frames = torch.full((num_frames, height, width, 3), 60, dtype=torch.uint8)
    for index in range(num_frames):
        frames[index, 10:30, 2 * index : 2 * index + 20] = torch.tensor([200, 180, 160], dtype=torch.uint8)
    time = torch.arange(num_frames * 640) / 16_000
    chirp = 0.5 * torch.sin(2 * torch.pi * (300 * time + 600 * time**2))
    return Clip(frames=frames, frames_per_second=25.0, waveform=chirp, samples_per_second=16_000)


def test_a_written_clip_comes_back_in_sync(tmp_path: Path) -> None:
    clip = moving_square()
    assert clip.waveform is not None
    write_clip(tmp_path / "new" / "clip.mp4", clip)
    again = MediaReader().read(tmp_path / "new" / "clip.mp4")
    error = (again.frames.float() - clip.frames.float()).square().mean()
    assert 10 * torch.log10(255**2 / error) > 30
    assert again.waveform is not None and again.waveform.shape == clip.waveform.shape
    spectra = torch.fft.rfft(again.waveform, 32_768) * torch.fft.rfft(clip.waveform, 32_768).conj()
    assert int(torch.fft.irfft(spectra).argmax()) == 0
    assert torch.corrcoef(torch.stack([again.waveform, clip.waveform]))[0, 1] > 0.98


def test_the_same_clip_gives_the_same_bytes_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_clip(tmp_path / name, moving_square())
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_odd_sizes_and_silent_clips_can_be_written(tmp_path: Path) -> None:
    clip = Clip(
        frames=moving_square(5, 33, 41).frames, frames_per_second=25.0, waveform=None, samples_per_second=16_000
    )
    write_clip(tmp_path / "a.mp4", clip)
    again = MediaReader().read(tmp_path / "a.mp4")
    assert again.waveform is None
    assert again.frames.shape == (5, 34, 42, 3)
    assert (again.frames[:, :33, :41].float() - clip.frames.float()).abs().mean() < 8


def test_a_clip_without_frames_leaves_no_file(tmp_path: Path) -> None:
    clip = moving_square()
    with pytest.raises(ValueError, match="no frames"):
        write_clip(
            tmp_path / "a.mp4",
            Clip(frames=clip.frames[:0], frames_per_second=25.0, waveform=None, samples_per_second=16_000),
        )
    assert list(tmp_path.iterdir()) == []
