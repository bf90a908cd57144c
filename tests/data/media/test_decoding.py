"""Frames on the clock of a clip: time stamps that make no sense, damage, files that end early."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.container import InputContainer

from hh_train.data.media import pictures
from hh_train.data.media.decoding import FrameSampler
from hh_train.data.media.pictures import MediaError


@pytest.fixture
def container(tmp_path: Path) -> Iterator[InputContainer]:
    """A file with a picture of 25 frames a second."""
    with av.open(str(tmp_path / "a.avi"), "w") as target:
        picture = target.add_stream("mpeg4", rate=25)
        picture.width = picture.height = 16
        for _ in range(5):
            target.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")))
        target.mux(picture.encode())
    with av.open(str(tmp_path / "a.avi")) as source:
        yield source


def sampler(container: InputContainer, **arguments: object) -> FrameSampler:
    defaults = {"frames_per_second": 25.0, "size": None, "max_frames": None}
    return FrameSampler(stream=container.streams.video[0], **{**defaults, **arguments})  # type: ignore[arg-type]


def add(picture: FrameSampler, *stamps: int | None, first_shade: int = 0) -> None:
    """Frames at time stamps in milliseconds, every one a shade lighter."""
    for shade, stamp in enumerate(stamps, start=first_shade):
        frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 10 * shade, np.uint8), format="rgb24")
        frame.time_base, frame.pts = Fraction(1, 1000), stamp
        picture.add(frame)


def shades(picture: FrameSampler) -> list[int]:
    picture.finish()
    return [round(float(frame.mean()) / 10) for frame in picture.frames]


@pytest.mark.parametrize("leap", [20_000, 10_200, -15_000])
def test_a_clip_ends_where_time_stamps_leap(container: InputContainer, leap: int) -> None:
    picture = sampler(container)
    add(picture, 0, 40, 80, 120, 160, 160 + leap, 200 + leap)
    assert picture.is_complete
    assert shades(picture) == [0, 1, 2, 3, 4]


def test_a_pause_is_filled(container: InputContainer) -> None:
    picture = sampler(container)
    add(picture, 0, 40, 9_000)
    assert len(shades(picture)) == 226
    assert shades(picture)[224:226] == [1, 2]


def test_repeated_and_earlier_stamps_are_skipped(container: InputContainer) -> None:
    picture = sampler(container)
    add(picture, 0, 40, 40, 0, 80, 60, 120)
    assert shades(picture) == [0, 1, 4, 6]


def test_frames_without_stamps_follow_each_other(container: InputContainer) -> None:
    picture = sampler(container)
    add(picture, None, None, None, None)
    assert shades(picture) == [0, 1, 2, 3]


def test_a_window_takes_the_frames_on_display(container: InputContainer) -> None:
    picture = sampler(container, start_seconds=0.1, max_frames=3)
    add(picture, 0, 40, 80, 90, 150, 195, 240)
    assert shades(picture) == [3, 4, 5]  # at 100, 140 and 180 ms
    assert picture.is_complete and picture.limit_seconds == pytest.approx(0.22)


def test_damage_inside_the_clip_is_refused(container: InputContainer) -> None:
    picture = sampler(container)
    add(picture, 0, 40)
    picture.add_damage()
    with pytest.raises(MediaError, match=r"pictures are lost before 0\.12 s"):
        add(picture, 120)


def test_damage_before_and_after_the_clip_does_not_matter(container: InputContainer) -> None:
    picture = sampler(container, start_seconds=0.16)
    picture.add_damage()
    add(picture, 0, 40)
    picture.add_damage()
    add(picture, 120, 160, 200, 240, first_shade=3)
    picture.add_damage()
    assert shades(picture) == [4, 5, 6]


@pytest.mark.parametrize(
    ("stated", "kept"), [(10.0, [0, 1, 2, 3]), (0.32, [0, 1, 2, 3, 3, 4, 5]), (None, [0, 1, 2, 3, 3, 4, 5])]
)
def test_a_file_that_ends_early_loses_its_incomplete_tail(
    container: InputContainer, stated: float | None, kept: list[int]
) -> None:
    picture = sampler(container, stated_end_seconds=stated)
    add(picture, 0, 40, 80, 120, 200, 240)  # the frame at 160 is one that comes later in the file
    assert shades(picture)[:7] == kept


def test_pictures_of_absurd_size_are_refused(container: InputContainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", 200)
    picture = sampler(container)
    add(picture, 0)
    with pytest.raises(MediaError, match="16x16 pixels"):
        picture.finish()
