"""Media written by PyAV, read back: which frame, which moment of sound, which part of the picture; what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, ColorTrc

from hh_train.data.media.files import MediaError, MediaReader, write_clip
from hh_train.tokenizers import MelAudioTokenizer, PatchVideoTokenizer
from hh_train.types import Clip

BURST_SECONDS = 0.5


def gray_of(index: int) -> int:
    """The shade of source frame `index`: far enough apart to survive any codec."""
    return 20 + 4 * (index % 55)


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
        (5, 5, [tick // 5 for tick in range(25)]),  # 40 ms ticks, 200 ms frames
    ],
)
def test_frames_are_those_on_display(tmp_path: Path, rate: int, num_frames: int, sources: list[int]) -> None:
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
        with pytest.raises(MediaError, match="cannot be read as media"):
            MediaReader().probe(path)
    with pytest.raises(MediaError, match="no picture"):
        MediaReader().read(record(tmp_path / "sound.m4a", video_codec=None))
    with pytest.raises(MediaError, match="too short: 4 frames"):
        MediaReader().read(record(tmp_path / "short.mp4", num_frames=4))


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


@pytest.mark.parametrize(
    ("name", "video_codec", "audio_codec"),
    [
        ("a.mp4", "libx264", "aac"),
        ("a.mkv", "libx264", "flac"),
        ("a.webm", "libvpx-vp9", "libopus"),
        ("a.avi", "mpeg4", "pcm_s16le"),
        ("a.mov", "mpeg4", "pcm_s16le"),
    ],
)
def test_a_window_is_that_part_of_the_whole(tmp_path: Path, name: str, video_codec: str, audio_codec: str) -> None:
    path = record(tmp_path / name, video_codec=video_codec, audio_codec=audio_codec, num_frames=220, rate=30)
    whole = MediaReader().read(path)
    assert whole.waveform is not None
    for first, count in ((0, 9), (1, 5), (12, 9), (75, 25), (130, 41), (160, 21)):
        window = MediaReader().read(path, start_seconds=first / 25, max_frames=count)
        assert window.frames.shape[0] == count
        assert torch.equal(window.frames, whole.frames[first : first + count]), (first, count)
        assert window.waveform is not None
        lags = range(-8, 9) if audio_codec == "libopus" else (0,)  # stamps in milliseconds, and a decoder that settles
        padded = torch.nn.functional.pad(whole.waveform, (640, 640))[first * 640 : (first + count + 2) * 640]
        sounds = (padded[640 + lag : 640 + lag + count * 640] for lag in lags)
        assert min(float((window.waveform - sound).abs().max()) for sound in sounds) < 0.02, (first, count)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_windows_of_a_long_file_with_few_key_frames(tmp_path: Path, name: str) -> None:
    """Key frames every 250 frames, and a transport stream, which has no index and whose stamps start late."""
    path = record(tmp_path / name, num_frames=700, rate=24, first_frame_seconds=1.0)
    whole = MediaReader().read(path)
    for first in (30, 255, 400, 610, 700):
        window = MediaReader().read(path, start_seconds=first / 25, max_frames=9)
        assert torch.equal(window.frames, whole.frames[first : first + 9]), first
        assert window.waveform is not None and whole.waveform is not None
        assert (window.waveform - whole.waveform[first * 640 : (first + 9) * 640]).abs().max() < 0.02


def test_a_window_past_the_end_is_refused(tmp_path: Path) -> None:
    path = record(tmp_path / "a.mp4", num_frames=50)
    assert MediaReader().read(path, start_seconds=1.6).frames.shape[0] == 9
    for start in (1.9, 2.0, 100.0):
        with pytest.raises(MediaError, match="too short"):
            MediaReader().read(path, start_seconds=start)
    with pytest.raises(ValueError, match="start_seconds"):
        MediaReader().read(path, start_seconds=-1.0)


def test_size_and_length_of_a_call_go_before_the_readers(tmp_path: Path) -> None:
    reader = MediaReader(size=(32, 24), max_frames=5)
    clip = reader.read(record(tmp_path / "a.mp4"), size=(16, 16), max_frames=13)
    assert clip.frames.shape == (13, 16, 16, 3)


def test_a_window_without_sound_in_a_file_with_sound_is_silent(tmp_path: Path) -> None:
    path = record(tmp_path / "a.mp4", num_frames=125)
    with av.open(str(path)) as source, av.open(str(tmp_path / "b.mp4"), "w") as target:
        streams = {stream: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            late = packet.stream.type == "audio" and packet.pts is not None and packet.pts * packet.time_base > 1
            if packet.dts is not None and not late:
                packet.stream = streams[packet.stream]
                target.mux(packet)
    clip = MediaReader().read(tmp_path / "b.mp4", start_seconds=3.0)
    assert clip.waveform is not None and clip.waveform.shape == (49 * 640,)
    assert not clip.waveform.any()


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "aac"), ("a.webm", "libopus"), ("a.avi", "pcm_s16le")])
def test_probing_tells_what_reading_gives(tmp_path: Path, name: str, codec: str) -> None:
    video = {"a.webm": "libvpx-vp9"}.get(name, "mpeg4")
    info = MediaReader().probe(record(tmp_path / name, video_codec=video, audio_codec=codec, num_frames=75, rate=30))
    assert info.seconds == pytest.approx(2.5, abs=0.04)
    assert (info.height, info.width, info.frames_per_second) == (48, 64, pytest.approx(30, rel=1e-3))
    assert (info.has_audio, info.is_image) == (True, False)


MOMENTS = (0.71, 1.94, 3.135, 4.37)


def flash_and_click(
    path: Path, *, codecs: tuple[str, str], rate: Fraction, sound_rate: int, late: float
) -> list[float]:
    """A tenth of a second of white begins with a click, four times; their moments. Both tracks start at `late`."""
    moments = [round(m * rate) / rate for m in MOMENTS]
    seconds = 5
    with av.open(str(path), "w") as container:
        picture = container.add_stream(codecs[0], rate=rate)
        sound = container.add_stream(codecs[1], rate=sound_rate, layout="mono")
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        for index in range(round(seconds * rate)):
            shade = 250 if any(0 <= index / rate - moment < 0.1 for moment in moments) else 10
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), shade, np.uint8), format="rgb24")
            frame.time_base, frame.pts = 1 / rate, index + round(late * rate)
            container.mux(picture.encode(frame))
        container.mux(picture.encode())
        samples = np.zeros(seconds * sound_rate, np.float32)
        for moment in moments:
            first = round(moment * sound_rate)
            samples[first : first + sound_rate // 200] = 0.9
        resampler = av.AudioResampler(format=sound.format, layout="mono", rate=sound_rate)
        for start in range(0, samples.size, 960):
            block = av.AudioFrame.from_ndarray(samples[None, start : start + 960].copy(), format="fltp", layout="mono")
            block.sample_rate, block.time_base = sound_rate, Fraction(1, sound_rate)
            block.pts = start + round(round(late * rate) / rate * sound_rate)
            for fitting in resampler.resample(block):
                container.mux(sound.encode(fitting))
        container.mux(sound.encode())
    return [float(moment) for moment in moments]


def offsets_seconds(clip: Clip) -> list[float]:
    """By how much each click comes after its flash."""
    assert clip.waveform is not None
    bright = clip.frames.float().mean((1, 2, 3)) > 130
    flashes = [i / 25 for i in range(1, len(bright)) if bright[i] and not bright[i - 1]]
    loud = clip.waveform.abs() > 0.25
    clicks = [i / 16_000 for i in loud.nonzero().flatten().tolist() if not loud[max(0, i - 1600) : i].any()]
    assert len(flashes) == len(clicks)
    return [click - flash for flash, click in zip(flashes, clicks, strict=True)]


@pytest.mark.parametrize("start", [0.0, 1.3, 2.48])
@pytest.mark.parametrize("late", [0.0, 2.0])
@pytest.mark.parametrize(
    ("name", "codecs", "rate", "sound_rate"),
    [
        ("a.mp4", ("libx264", "aac"), Fraction(25), 48_000),
        ("a.mp4", ("libx264", "aac"), Fraction(30_000, 1001), 44_100),
        ("a.mkv", ("libx264", "libmp3lame"), Fraction(24), 44_100),
        ("a.webm", ("libvpx-vp9", "libopus"), Fraction(30), 48_000),
        ("a.mov", ("mpeg4", "pcm_s16le"), Fraction(60), 22_050),
        ("a.mkv", ("libx264", "flac"), Fraction(50), 8_000),
        ("a.mp4", ("mpeg4", "aac"), Fraction(12), 16_000),
    ],
)
def test_picture_and_sound_stay_together(
    tmp_path: Path, name: str, codecs: tuple[str, str], rate: Fraction, sound_rate: int, late: float, start: float
) -> None:
    """Rates are converted, containers differ, tracks start late, windows are cut: no offset above half a frame."""
    flash_and_click(tmp_path / name, codecs=codecs, rate=rate, sound_rate=sound_rate, late=late)
    clip = MediaReader().read(tmp_path / name, start_seconds=start)
    offsets = offsets_seconds(clip)
    assert len(offsets) == sum(moment > start for moment in MOMENTS)
    assert max(map(abs, offsets)) <= 0.02 + 0.002


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30_000, 1001)])
def test_picture_and_sound_come_together_through_the_codecs(tmp_path: Path, rate: Fraction) -> None:
    flash_and_click(tmp_path / "a.mp4", codecs=("libx264", "aac"), rate=rate, sound_rate=44_100, late=0.0)
    clip = MediaReader(size=(32, 32)).read(tmp_path / "a.mp4")
    assert clip.waveform is not None
    video, audio = PatchVideoTokenizer(channels=8), MelAudioTokenizer(channels=32, phase_iterations=8)
    video.fit([clip.frames])
    audio.fit([clip.waveform])
    waveform = audio.decode(audio.encode(clip.waveform))
    decoded = replace(
        clip, frames=video.decode(video.encode(clip.frames)), waveform=0.9 * waveform / waveform.abs().max()
    )
    offsets = offsets_seconds(decoded)
    assert len(offsets) == len(MOMENTS)
    assert max(map(abs, offsets)) <= 0.02 + 0.005


def test_sound_of_a_container_that_rounds_time_stamps_is_not_torn(tmp_path: Path) -> None:
    """Matroska's stamps are in milliseconds: blocks of 960 samples at 44.1 kHz start up to half of one apart."""
    time = np.arange(2 * 44_100) / 44_100
    tone = (0.5 * np.sin(2 * np.pi * 1000 * time)).astype(np.float32)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        picture = container.add_stream("mpeg4", rate=25)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        sound = container.add_stream("flac", rate=44_100, layout="mono")
        for _ in range(50):
            container.mux(picture.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 9, np.uint8), format="rgb24")))
        container.mux(picture.encode())
        block = av.AudioFrame.from_ndarray((tone[None] * 32767).astype(np.int16), format="s16", layout="mono")
        block.sample_rate, block.time_base, block.pts = 44_100, Fraction(1, 44_100), 0
        container.mux(sound.encode(block))
        container.mux(sound.encode())
    clip = MediaReader().read(tmp_path / "a.mkv")
    assert clip.waveform is not None
    wanted = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(clip.waveform.shape[0]) / 16_000)
    noise = clip.waveform.numpy()[1600:-1600] - wanted[1600:-1600]
    assert 10 * np.log10((wanted[1600:-1600] ** 2).mean() / (noise**2).mean()) > 40


@pytest.mark.parametrize(
    ("name", "seconds", "size", "is_spoken"),
    [
        ("jwpIntro", 5.78, (480, 640), True),
        ("testMovie", 7.84, (288, 352), True),
        ("obama_speech", 8.71, (240, 320), True),
        ("park", 0.55, (480, 640), True),
        ("WolfgangLanger_Pexels", 19.69, (360, 640), False),
    ],
)
def test_real_clips(
    real_clip: Callable[[str], Path], name: str, seconds: float, size: tuple[int, int], is_spoken: bool
) -> None:
    path = real_clip(name)
    info = MediaReader().probe(path)
    assert info.seconds == pytest.approx(seconds, abs=0.05)
    assert (info.height, info.width) == size
    clip = MediaReader(size=(64, 96)).read(path)
    assert abs(clip.frames.shape[0] / 25 - seconds) < 0.2
    assert clip.frames.float().std() > 20
    assert clip.waveform is not None
    assert (float(clip.waveform.abs().max()) > 0.05) == is_spoken
    if seconds > 5:
        window = MediaReader(size=(64, 96)).read(path, start_seconds=4.0, max_frames=41)
        assert torch.equal(window.frames, clip.frames[100:141])
        assert (window.waveform - clip.waveform[64_000 : 64_000 + 41 * 640]).abs().max() < 0.02


@pytest.mark.parametrize("transfer", ["SMPTE2084", "ARIB_STD_B67"])
def test_high_dynamic_range_is_read_as_players_show_it(tmp_path: Path, transfer: str) -> None:
    """Reference white, 58 % of PQ's range or 75 % of HLG's, comes out nearly white and not a gray."""
    signal = {"SMPTE2084": 0.5807, "ARIB_STD_B67": 0.75}[transfer]
    with av.open(str(tmp_path / "phone.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace = ColorTrc[transfer], 9, Colorspace.BT2020
        for index in range(9):
            white = np.full((48, 64, 3), round(65535 * signal), np.uint16)
            frame = VideoFrame.from_ndarray(white, format="rgb48le").reformat(format="yuv420p10le")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    frames = MediaReader().read(tmp_path / "phone.mp4").frames
    assert frames.dtype == torch.uint8 and 240 <= int(frames.min()) <= int(frames.max()) <= 252


@pytest.mark.parametrize("height", [360, 720])
def test_colors_survive_writing_and_reading_at_any_size(tmp_path: Path, height: int) -> None:
    """Small pictures are coded in BT.601, large ones in BT.709: taking one for the other moves green by 20."""
    frames = torch.tensor([200, 40, 60], dtype=torch.uint8).expand(5, height, 96, 3)
    write_clip(tmp_path / "red.mp4", Clip(frames=frames, frames_per_second=25.0, waveform=None, samples_per_second=1))
    found = MediaReader().read(tmp_path / "red.mp4").frames
    assert (found.int() - frames.int()).abs().max() <= 4
