"""Cuts of films whose cuts are known, to the frame."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hh_train.data.media.files import MediaError, MediaReader, write_clip
from hh_train.data.selection.cuts import CutDetector, Shot
from hh_train.types import Clip


def scene(seed: int, num_frames: int, *, side: int = 64) -> Tensor:
    """A picture of large spots that pans by a pixel a frame."""
    spots = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    picture = torch.nn.functional.interpolate(spots, size=(side, side + num_frames), mode="bicubic").clamp(0, 1)[0]
    views = [picture[:, :, i : i + side] for i in range(num_frames)]
    return (torch.stack(views).permute(0, 2, 3, 1) * 255).to(torch.uint8).contiguous()


def film(path: Path, frames: Tensor, rate: float = 25.0) -> Path:
    write_clip(path, Clip(frames=frames, frames_per_second=rate, waveform=None, samples_per_second=16_000))
    return path


def first_frames(shots: tuple[Shot, ...], rate: float = 25.0) -> list[int]:
    return [round(shot.start_seconds * rate) for shot in shots]


@pytest.mark.parametrize("detector", ["adaptive", "content", "histogram"])
def test_hard_cuts_are_found_to_the_frame(tmp_path: Path, detector: str) -> None:
    dark = (scene(2, 41) / 2).to(torch.uint8)
    frames = torch.cat([scene(1, 30), dark, scene(3, 25)])
    shots = CutDetector(detector=detector).shots(film(tmp_path / "a.mp4", frames))  # type: ignore[arg-type]
    assert first_frames(shots) == [0, 30, 71]


@pytest.mark.parametrize("rate", [24.0, 30.0])
def test_a_shot_ends_when_the_next_begins(tmp_path: Path, rate: float) -> None:
    path = film(tmp_path / "a.mp4", torch.cat([scene(1, 40), scene(2, 40)]), rate)
    first, second = CutDetector().shots(path)
    assert first.start_seconds == 0.0
    assert second.start_seconds == pytest.approx(40 / rate, abs=1e-3)
    assert first.end_seconds == second.start_seconds
    assert second.end_seconds == pytest.approx(80 / rate, abs=2e-3)
    assert first.seconds == pytest.approx(40 / rate, abs=1e-3)


def test_a_film_without_cut_is_one_shot(tmp_path: Path) -> None:
    (shot,) = CutDetector().shots(film(tmp_path / "a.mp4", scene(4, 60)))
    assert (shot.start_seconds, round(shot.end_seconds * 25)) == (0.0, 60)


def test_a_fade_through_black_is_a_cut_for_the_detector_of_fades_alone(tmp_path: Path) -> None:
    light = torch.cat([torch.ones(20), torch.linspace(1, 0, 15), torch.linspace(0, 1, 15), torch.ones(20)])
    frames = (torch.cat([scene(5, 35), scene(6, 35)]) * light[:, None, None, None]).to(torch.uint8)
    path = film(tmp_path / "a.mp4", frames)
    starts = first_frames(CutDetector(detector="fade").shots(path))
    assert len(starts) == 2
    assert abs(starts[1] - 35) <= 2
    assert len(CutDetector(detector="adaptive").shots(path)) == 1


def test_cuts_that_are_nearer_than_the_shortest_shot_count_once(tmp_path: Path) -> None:
    frames = torch.cat([scene(1, 30), scene(2, 4), scene(3, 30)])
    path = film(tmp_path / "a.mp4", frames)
    assert first_frames(CutDetector(min_shot_seconds=0.1).shots(path)) == [0, 30, 34]
    assert first_frames(CutDetector(min_shot_seconds=0.6).shots(path)) == [0, 30]


def test_a_threshold_decides(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", torch.cat([scene(1, 30), scene(2, 30)]))
    assert len(CutDetector(detector="content", threshold=250.0).shots(path)) == 1


def test_a_film_that_breaks_off_gives_the_shots_up_to_there(tmp_path: Path) -> None:
    whole = film(tmp_path / "a.mp4", torch.cat([scene(1, 30), scene(2, 30), scene(3, 30)]))
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * 0.8)])
    assert first_frames(CutDetector().shots(broken))[:2] == [0, 30]


@pytest.mark.parametrize("content", [b"", b"no film at all, but text"])
def test_what_is_no_film_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(MediaError, match="cannot be read as media"):
        CutDetector().shots(tmp_path / "a.mp4")


@pytest.mark.parametrize("arguments", [{"min_shot_seconds": -1.0}, {"max_side": 2}])
def test_settings_that_make_no_sense_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="wanted"):
        CutDetector(**arguments)  # type: ignore[arg-type]


def test_settings_tell_detectors_apart() -> None:
    assert CutDetector().settings() != CutDetector(threshold=4.0).settings()


@pytest.mark.parametrize("detector", ["adaptive", "content"])
@pytest.mark.parametrize("name", ["obama_speech", "park", "WolfgangLanger_Pexels", "jwpIntro", "testMovie"])
def test_real_footage_of_one_shot_is_not_cut(real_clip: Callable[[str], Path], name: str, detector: str) -> None:
    assert len(CutDetector(detector=detector).shots(real_clip(name))) == 1  # type: ignore[arg-type]


@pytest.mark.parametrize("detector", ["adaptive", "content"])
def test_real_footage_is_cut_where_it_is_joined(
    real_clip: Callable[[str], Path], tmp_path: Path, detector: str
) -> None:
    reader = MediaReader(size=(120, 160), max_frames=41)
    talk, face = (reader.read(real_clip(name)).frames for name in ("obama_speech", "WolfgangLanger_Pexels"))
    path = film(tmp_path / "a.mp4", torch.cat([talk, face, talk]))
    assert first_frames(CutDetector(detector=detector).shots(path)) == [0, 41, 82]  # type: ignore[arg-type]
