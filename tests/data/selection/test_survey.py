"""From files to windows: lengths, keys, what is too short, copies, and the cache."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hh_train.data.footage.files import FootageFile
from hh_train.data.media.files import MediaReader, write_clip
from hh_train.data.selection.buckets import Buckets
from hh_train.data.selection.cuts import CutDetector
from hh_train.data.selection.duplicates import DuplicateSearch
from hh_train.data.selection.survey import FileSurvey, Surveyor, gather, outside_windows, survey_footage
from hh_train.data.selection.windows import WindowLengths, WindowPlan
from hh_train.types import Clip


def scene(seed: int, num_frames: int, *, height: int = 48, width: int = 64) -> Tensor:
    spots = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    picture = torch.nn.functional.interpolate(spots, size=(height, width + num_frames), mode="bicubic").clamp(0, 1)[0]
    views = [picture[:, :, i : i + width] for i in range(num_frames)]
    return (torch.stack(views).permute(0, 2, 3, 1) * 255).to(torch.uint8).contiguous()


def write(path: Path, *scenes: Tensor, split: str = "train") -> FootageFile:
    frames = torch.cat(scenes)
    write_clip(path, Clip(frames=frames, frames_per_second=25.0, waveform=None, samples_per_second=16_000))
    return FootageFile(path=path, key=path.stem, split=split)


def surveyor(
    *frames: int,
    sizes: tuple[tuple[int, int], ...] = ((32, 48),),
    cuts: CutDetector | None = None,
    plan: WindowPlan | None = None,
    duplicates: DuplicateSearch | None = None,
    max_crop: float = 1.0,
) -> Surveyor:
    lengths = WindowLengths(
        buckets=Buckets(sizes=sizes, frames=frames, max_crop=max_crop), multiple=4, shortest=5, longest=101
    )
    return Surveyor(reader=MediaReader(), lengths=lengths, cuts=cuts, plan=plan, duplicates=duplicates)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> FootageFile:
    """Three shots of 30, 20 and 60 frames."""
    return write(tmp_path_factory.mktemp("footage") / "film.mp4", scene(1, 30), scene(2, 20), scene(3, 60))


def starts(survey: FileSurvey) -> list[tuple[int, int]]:
    """First frame and number of frames of each window."""
    return [(round(window.start_seconds * 25), window.num_frames) for window in survey.windows]


def test_by_default_a_file_is_one_window_and_is_not_opened(tmp_path: Path) -> None:
    file = FootageFile(path=tmp_path / "missing.mp4", key="a", split="test")
    plain = surveyor()
    assert not plain.opens_files
    (window,) = plain.survey(file).windows
    assert (window.key, window.start_seconds, window.num_frames, window.size) == ("a", 0.0, 101, (32, 48))
    assert (window.is_part, window.shots, window.split) == (False, (), "test")


def test_each_shot_gives_its_own_windows(film: FootageFile) -> None:
    survey = surveyor(cuts=CutDetector()).survey(film)
    assert starts(survey) == [(0, 29), (30, 17), (50, 57)]
    assert [window.key for window in survey.windows] == ["film_000000000", "film_000001200", "film_000002000"]
    assert all(window.is_part and len(window.shots) == 1 for window in survey.windows)
    assert survey.seconds == pytest.approx(4.4, abs=0.01)


def test_shots_that_fill_no_length_are_told(film: FootageFile) -> None:
    survey = surveyor(25, 49, cuts=CutDetector()).survey(film)
    assert starts(survey) == [(0, 25), (50, 49)]
    (lost,) = survey.dropped
    assert lost.key == "film_000001200"
    assert lost.reason == "is too short: 20 frames at 25 a second between cuts, wanted 25 at the least"


def test_windows_slide_through_shots(film: FootageFile) -> None:
    survey = surveyor(25, cuts=CutDetector(), plan=WindowPlan(placement="sliding")).survey(film)
    assert starts(survey) == [(0, 25), (50, 25), (75, 25)]


@pytest.mark.parametrize("rate", [12.0, 24.0, 30.0, 50.0, 60.0])
def test_no_frame_of_another_shot_gets_into_a_clip(tmp_path: Path, rate: float) -> None:
    """Whatever the rate of the film: at 25 a second a tick may be nearest to a frame beyond the cut."""
    gray = scene(1, 61).float().mean(-1, keepdim=True)
    colors = torch.tensor([[1.0, 0.2, 0.2], [0.2, 1.0, 0.2], [0.2, 0.2, 1.0]])
    lengths = (int(rate) + 3, int(rate) + 4, int(rate) + 2)
    frames = torch.cat([(gray[:count] * color).to(torch.uint8) for count, color in zip(lengths, colors, strict=True)])
    path = tmp_path / "film.mp4"
    write_clip(path, Clip(frames=frames, frames_per_second=rate, waveform=None, samples_per_second=16_000), quality=4)
    file = FootageFile(path=path, key="film", split="train")
    every_length = replace(surveyor().lengths, multiple=1)
    reader = MediaReader(frame_multiple=1)
    windows = Surveyor(reader=reader, lengths=every_length, cuts=CutDetector()).survey(file).windows
    assert len(windows) == 3
    for index, window in enumerate(windows):
        clip = reader.read(path, start_seconds=window.start_seconds, max_frames=window.num_frames)
        assert clip.frames.shape[0] == window.num_frames
        assert set(clip.frames.float().mean((1, 2)).argmax(-1).tolist()) == {index}


def test_several_shots_make_one_clip_on_request(film: FootageFile) -> None:
    survey = surveyor(cuts=CutDetector(), plan=WindowPlan(max_shots=2)).survey(film)
    assert starts(survey) == [(0, 49), (50, 57)]
    first, _ = survey.windows
    assert [round(shot.start_seconds * 25) for shot in first.shots] == [0, 30]
    assert first.shots[-1].end_seconds == pytest.approx(49 / 25)


def test_without_cuts_a_file_is_one_stretch(film: FootageFile) -> None:
    survey = surveyor(plan=WindowPlan(placement="uniform", count=2), sizes=((32, 48), (48, 32))).survey(film)
    assert starts(survey) == [(0, 101)]
    (window,) = survey.windows
    assert window.is_part is False
    assert window.size == (32, 48)


def test_buckets_alone_keep_the_name_of_the_file(film: FootageFile) -> None:
    (window,) = surveyor(49).survey(film).windows
    assert (window.key, window.num_frames, window.is_part) == ("film", 49, True)


def test_a_picture_of_the_wrong_shape_is_told(film: FootageFile) -> None:
    survey = surveyor(49, sizes=((64, 16),), max_crop=0.3).survey(film)
    assert survey.windows == ()
    assert survey.dropped[0].reason.startswith("fits no bucket: 64x48 would lose")


def test_images_are_windows_of_one_frame(tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(scene(1, 1)[0].numpy()).save(tmp_path / "a.png")
    file = FootageFile(path=tmp_path / "a.png", key="a", split="train")
    assert starts(surveyor(cuts=CutDetector()).survey(file)) == [(0, 1)]
    assert starts(surveyor(1, 25).survey(file)) == [(0, 1)]
    assert "single picture" in surveyor(25).survey(file).dropped[0].reason


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_files_that_are_no_film_are_told(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.mp4"
    if content is not None:
        path.write_bytes(content)
    survey = surveyor(25, cuts=CutDetector()).survey(FootageFile(path=path, key="a", split="train"))
    assert survey.windows == ()
    assert survey.dropped[0].key == "a"


def test_of_copies_the_one_that_is_held_out_stays(tmp_path: Path) -> None:
    files = [
        write(tmp_path / "a.mp4", scene(1, 25)),
        write(tmp_path / "b.mp4", scene(2, 25), split="validation"),
        write(tmp_path / "c.mp4", scene(2, 25)),
        write(tmp_path / "d.mp4", scene(1, 25)),
    ]
    found = gather(survey_footage(files, surveyor(duplicates=DuplicateSearch())), DuplicateSearch())
    assert [window.key for window in found.windows] == ["a", "b"]
    assert {clip.key: clip.reason for clip in found.dropped} == {
        "c": "is a duplicate: of b",
        "d": "is a duplicate: of a",
    }


def test_a_clip_that_is_lost_anyway_does_not_stand_for_its_copies(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}.mp4", scene(1, 25)) for name in "abc"]
    surveys = survey_footage(files, surveyor(duplicates=DuplicateSearch()))
    found = gather(surveys, DuplicateSearch(), is_usable=lambda file: file.key != "a")
    assert [window.key for window in found.windows] == ["a", "b"]
    assert [(clip.key, clip.reason) for clip in found.dropped] == [("c", "is a duplicate: of b")]


def test_a_file_that_cannot_be_read_is_no_copy(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.mp4").touch()
    files = [FootageFile(path=tmp_path / f"{name}.mp4", key=name, split="train") for name in ("a", "b")]
    found = gather(survey_footage(files, surveyor(duplicates=DuplicateSearch())), DuplicateSearch())
    assert len(found.windows) == 2


def test_windows_of_the_same_name_are_refused(tmp_path: Path) -> None:
    files = [FootageFile(path=tmp_path / name, key="a", split="train") for name in ("a.mp4", "a.mov")]
    with pytest.raises(ValueError, match=r"a\.mp4 and .*a\.mov would both give the clip 'a'"):
        gather(map(surveyor().survey, files))


def test_files_keep_their_order(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}.mp4", scene(index, 9)) for index, name in enumerate("cab")]
    found = gather(survey_footage(files, surveyor(5), num_workers=3))
    assert [window.key for window in found.windows] == ["c", "a", "b"]
    assert found.seconds == pytest.approx(27 / 25, abs=0.01)


def test_what_lies_in_no_window_is_told(film: FootageFile) -> None:
    windows = [
        replace(window, start_seconds=start, num_frames=25)
        for window in surveyor(25, plan=WindowPlan()).survey(film).windows[:1]
        for start in (3.0, 0.5, 1.0)
    ]
    assert outside_windows(windows, 10.0, 25.0) == pytest.approx(0.5 + 1.0 + 6.0)
    assert outside_windows(windows, 3.5, 25.0) == pytest.approx(0.5 + 1.0)
    assert outside_windows([], 10.0, 25.0) == 10.0
    found = surveyor(25, plan=WindowPlan()).survey(film)
    assert found.seconds is not None
    assert found.outside_seconds == pytest.approx(found.seconds - 1.0)
    assert gather([found, found][:1]).outside_seconds == found.outside_seconds


def test_a_second_look_at_unchanged_files_opens_none(film: FootageFile, tmp_path: Path) -> None:
    look = surveyor(25, cuts=CutDetector(), duplicates=DuplicateSearch())
    (first,) = survey_footage([film], look, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1

    def fails(*_: object) -> None:
        raise AssertionError

    blind = replace(look, reader=MediaReader())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MediaReader, "probe", fails)
        patch.setattr(MediaReader, "read", fails)
        (second,) = survey_footage([film], blind, cache=tmp_path)
    assert second == first


def test_changed_files_and_settings_are_looked_at_again(tmp_path: Path) -> None:
    file = write(tmp_path / "a.mp4", scene(1, 30))
    cache = tmp_path / "cache"
    list(survey_footage([file], surveyor(25), cache=cache))
    list(survey_footage([file], surveyor(9), cache=cache))
    os.utime(file.path, ns=(1, 1))
    list(survey_footage([file], surveyor(25), cache=cache))
    assert len(list(cache.iterdir())) == 3


def test_settings_name_the_parts_that_are_used() -> None:
    assert surveyor().settings() == {"cuts": None, "windows": None, "duplicates": None}
    assert surveyor(plan=WindowPlan()).settings()["windows"]["placement"] == "head"
