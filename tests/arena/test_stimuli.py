"""Clips are made alike in length and loudness, and what cannot be compared is left out with its reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import pytest
import torch

from hh_train.arena.contest import Contest, Program
from hh_train.arena.loudness import TARGET_LUFS, heard_loudness
from hh_train.arena.stimuli import StimulusMaker
from hh_train.data.media.files import MediaReader
from hh_train.types import Clip

WriteClip = Callable[..., Path]


def read(path: Path, frames_per_second: float = 25.0) -> Clip:
    return MediaReader(
        frames_per_second=frames_per_second, samples_per_second=48_000, frame_multiple=1, min_frames=1
    ).read(path)


def onset_seconds(clip: Clip) -> tuple[float, float]:
    """When the light comes on, and when the tone does."""
    light = clip.frames.float().mean(dim=(1, 2, 3))
    assert clip.waveform is not None
    loud = clip.waveform.abs() > 0.3 * clip.waveform.abs().max()
    return (
        float((light > 100).float().argmax()) / clip.frames_per_second,
        float(loud.float().argmax()) / clip.samples_per_second,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_beeping_clip: WriteClip) -> Path:
    """`loud`, `quiet` (longer) and `fast` (30 frames a second) have two prompts; the real clips are there."""
    root = tmp_path_factory.mktemp("clips")
    for key, shade in (("one", 200), ("two", 180)):
        write_beeping_clip(root / "loud", key, volume=0.7, shade=shade)
        write_beeping_clip(root / "quiet", key, volume=0.02, num_frames=37, shade=shade)
        write_beeping_clip(root / "fast", key, num_frames=36, frames_per_second=30.0, shade=shade)
        write_beeping_clip(root / "real", key, seed=None, shade=shade)
    return root


@pytest.fixture(scope="module")
def program(folder: Path) -> Program:
    systems = {name: str(folder / name) for name in ("loud", "quiet", "fast")}
    return StimulusMaker(folder=folder / "shown").make(systems, reference=str(folder / "real"))


def test_every_prompt_has_a_clip_of_every_system(program: Program) -> None:
    assert {contest.key for contest in program.contests} == {"one", "two"} and not program.left_out
    assert program.systems == ["loud", "quiet", "fast"]
    assert 'English>: "one two"' in program.contests[0].prompt


def test_clips_are_equally_loud_and_long(program: Program) -> None:
    for contest in program.contests:
        for name, take in contest.takes.items():
            clip = read(take.path, 30.0 if name == "fast" else 25.0)
            assert clip.waveform is not None
            assert heard_loudness(clip.waveform, 48_000) == pytest.approx(TARGET_LUFS, abs=0.3)
            assert clip.frames.shape[0] / clip.frames_per_second == pytest.approx(1.0, abs=0.021) == take.seconds


def test_picture_and_sound_keep_their_timing(program: Program) -> None:
    for contest in program.contests:
        for name, take in contest.takes.items():
            light, tone = onset_seconds(read(take.path, 30.0 if name == "fast" else 25.0))
            assert light == pytest.approx(0.25, abs=0.04) and tone == pytest.approx(0.25, abs=0.02)


def test_the_control_pair_differs_by_400_milliseconds(program: Program) -> None:
    control = program.contests[0].control
    assert control is not None
    (light, tone), (same_light, late_tone) = (onset_seconds(read(t.path)) for t in (control.in_time, control.late))
    assert light == same_light
    assert late_tone - tone == pytest.approx(0.4, abs=0.005)


def test_files_name_nothing(program: Program, folder: Path) -> None:
    shown = list((folder / "shown").glob("*.mp4"))
    assert len(shown) == 2 * (3 + 2)
    for path in shown:
        assert re.fullmatch(r"[0-9a-f]{24}", path.stem)
        with av.open(str(path)) as container:
            said = {**container.metadata, **{k: v for s in container.streams for k, v in s.metadata.items()}}
        brands = {"major_brand", "minor_version", "compatible_brands"}
        assert set(said) <= {*brands, "language", "handler_name", "vendor_id"}
        content = path.read_bytes()
        assert not any(name in content for name in (b"loud", b"quiet", b"A light", b"one two"))


def test_a_second_time_nothing_is_made_again(program: Program, folder: Path) -> None:
    times = {path: path.stat().st_mtime_ns for path in (folder / "shown").iterdir()}
    systems = {name: str(folder / name) for name in ("loud", "quiet", "fast")}
    steps: list[tuple[int, int]] = []
    maker = StimulusMaker(folder=folder / "shown")
    again = maker.make(systems, reference=str(folder / "real"), report=lambda *step: steps.append(step))
    assert again == program and steps == [(1, 2), (2, 2)]
    assert {path: path.stat().st_mtime_ns for path in (folder / "shown").iterdir()} == times
    lost = program.contests[0].takes["loud"].path
    lost.unlink()
    maker.make(systems, reference=str(folder / "real"))
    assert set((folder / "shown").iterdir()) == set(times)


def make(tmp_path: Path, *names: str, **settings: object) -> Program:
    systems = {name: str(tmp_path / name) for name in names}
    return StimulusMaker(folder=tmp_path / "shown").make(systems, **settings)


def test_a_clip_made_anew_is_another_source(tmp_path: Path, write_beeping_clip: WriteClip) -> None:
    for name in "ab":
        write_beeping_clip(tmp_path / name, "one")
    (before,) = make(tmp_path, "a", "b").contests
    write_beeping_clip(tmp_path / "a", "one", shade=120)
    (after,) = make(tmp_path, "a", "b").contests
    assert before.takes["a"].source == before.takes["b"].source != after.takes["a"].source
    assert after.takes["b"] == before.takes["b"]
    assert after.takes["a"].path != before.takes["a"].path


def test_only_clips_of_one_prompt_and_one_seed_meet(tmp_path: Path, write_beeping_clip: WriteClip) -> None:
    for key in ("same", "words", "seed"):
        write_beeping_clip(tmp_path / "a", key)
        write_beeping_clip(tmp_path / "b", key, seed=int(key == "seed"), words="three" if key == "words" else "one two")
        write_beeping_clip(tmp_path / "c", key, seed=None)  # nothing says how it was made
    program = make(tmp_path, "a", "b", "c")
    met = {contest.key: set(contest.takes) for contest in program.contests}
    assert met == {"same": {"a", "b", "c"}, "words": {"a", "c"}, "seed": {"a", "c"}}
    assert "its prompt is not that of a" in program.left_out["b/words"]
    assert "its seed is 1, that of the systems before it 0" in program.left_out["b/seed"]


def test_bad_clips_are_left_out_and_the_others_go_on(tmp_path: Path, write_beeping_clip: WriteClip) -> None:
    for key in ("good", "torn", "bare"):
        for name in "ab":
            write_beeping_clip(tmp_path / name, key)
    torn = tmp_path / "b" / "torn.mp4"
    torn.write_bytes(torn.read_bytes()[:300])
    (tmp_path / "a" / "bare.txt").unlink()
    (tmp_path / "a" / "bare.json").unlink()
    program = make(tmp_path, "a", "b")
    assert [contest.key for contest in program.contests] == ["good"]
    assert "no picture" in program.left_out["b/torn"] and "caption" in program.left_out["a/bare"]
    assert "fewer than two" in program.left_out["torn"] and "fewer than two" in program.left_out["bare"]
    assert make(tmp_path, "a", "b") == program  # the reasons are remembered


def test_silent_clips_are_shown_and_give_no_control_pair(tmp_path: Path, write_beeping_clip: WriteClip) -> None:
    for name in "ab":
        write_beeping_clip(tmp_path / name, "mute", silent=name == "a", volume=0.0)
    (contest,) = make(tmp_path, "a", "b").contests
    assert read(contest.takes["a"].path).waveform is None
    assert float(read(contest.takes["b"].path).waveform.abs().max()) < 1e-3
    assert contest.control is None


def controls(program: Program) -> list[Contest]:
    return [contest for contest in program.contests if contest.control is not None]


def test_control_pairs_come_from_the_systems_where_there_are_no_real_clips(
    tmp_path: Path, write_beeping_clip: WriteClip
) -> None:
    for key in ("one", "two", "three"):
        for name in "ab":
            write_beeping_clip(tmp_path / name, key)
    maker = replace(StimulusMaker(folder=tmp_path / "shown"), num_controls=2)
    program = maker.make({name: str(tmp_path / name) for name in "ab"})
    assert len(controls(program)) == 2
    for contest in controls(program):
        assert contest.control.in_time.source in {take.source for take in contest.takes.values()}


def test_the_prompts_that_most_systems_have_come_first(tmp_path: Path, write_beeping_clip: WriteClip) -> None:
    for name, keys in (("a", "xyz"), ("b", "xyz"), ("c", "y")):
        for key in keys:
            write_beeping_clip(tmp_path / name, key, num_frames=9)
    assert [contest.key for contest in make(tmp_path, "a", "b", "c", max_prompts=1).contests] == ["y"]


def test_odd_sizes_and_a_single_tone_survive(tmp_path: Path) -> None:
    """A clip straight from another program: odd size, stereo at 44.1 kHz, 24 frames a second."""
    pixels, tone = (torch.randint(0, 255, (24, 34, 46, 3), dtype=torch.uint8), torch.randn(2, 44_100) * 0.1)
    for name in "ab":
        (tmp_path / name).mkdir()
        with av.open(str(tmp_path / name / "one.mkv"), "w") as container:
            video = container.add_stream("mpeg4", rate=24, width=46, height=34, pix_fmt="yuv420p")
            sound = container.add_stream("pcm_s16le", rate=44_100, layout="stereo")
            for image in pixels.numpy():
                container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(video.encode())
            samples = (tone * 32767).clamp(-32767, 32767).to(torch.int16).T.reshape(1, -1).contiguous().numpy()
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
            frame.sample_rate, frame.pts = 44_100, 0
            container.mux(sound.encode(frame))
            container.mux(sound.encode())
        (tmp_path / name / "one.txt").write_text("Noise")
    (contest,) = make(tmp_path, "a", "b").contests
    clip = read(contest.takes["a"].path, 24.0)
    assert clip.frames.shape == (24, 34, 46, 3) and clip.waveform.shape == (48_000,)


@pytest.mark.parametrize("names", [[], ["a"]])
def test_fewer_than_two_systems_are_refused(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(ValueError, match="two or more"):
        make(tmp_path, *names)


def test_systems_without_a_common_prompt_and_missing_folders_are_refused(
    tmp_path: Path, write_beeping_clip: WriteClip
) -> None:
    write_beeping_clip(tmp_path / "a", "one")
    with pytest.raises(ValueError, match=r"b: .*does not exist"):
        make(tmp_path, "a", "b")
    write_beeping_clip(tmp_path / "b", "two")
    with pytest.raises(ValueError, match="one key"):
        make(tmp_path, "a", "b")
