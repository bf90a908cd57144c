"""Windows to clips: the right stretch and size, the reason where there is none, and the order."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hh_train.data.footage.files import DroppedClip, FootageFile
from hh_train.data.media.files import MediaReader, write_clip
from hh_train.data.selection.buckets import Buckets
from hh_train.data.selection.clip_reading import PART_NOTE, WindowClip, WindowReader, in_parallel, without_mute_track
from hh_train.data.selection.filters import ClipFilter, Silent, Verdict
from hh_train.data.selection.windows import ClipWindow, WindowLengths
from hh_train.types import Clip


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of rising gray without sound."""
    found = tmp_path_factory.mktemp("footage") / "a.mp4"
    frames = (20 + 4 * torch.arange(50))[:, None, None, None].expand(50, 48, 64, 3).to(torch.uint8)
    write_clip(found, Clip(frames=frames, frames_per_second=25.0, waveform=None, samples_per_second=16_000))
    found.with_suffix(".txt").write_text("It grows light.")
    return found


def window(path: Path, start: float = 0.0, num_frames: int = 9) -> ClipWindow:
    file = FootageFile(path=path, key="a", split="train")
    return ClipWindow(file=file, key="a_0", start_seconds=start, num_frames=num_frames, size=(32, 32))


def reader(*frames: int, filters: dict[str, ClipFilter] | None = None, needs_caption: bool = True) -> WindowReader:
    lengths = WindowLengths(buckets=Buckets(sizes=((32, 32),), frames=frames), multiple=4, shortest=5, longest=101)
    return WindowReader(reader=MediaReader(), lengths=lengths, filters=filters or {}, needs_caption=needs_caption)


def test_a_window_is_read_where_it_stands(path: Path) -> None:
    item = reader().read(window(path, start=0.8))
    assert isinstance(item, WindowClip)
    assert item.clip.frames.shape == (9, 32, 32, 3)
    grays = item.clip.frames.float().mean((1, 2, 3))
    torch.testing.assert_close(grays, 20 + 4 * torch.arange(20, 29).float(), atol=1.5, rtol=0)
    assert item.metadata.key == "a_0"
    assert item.metadata.prompt.description == "It grows light."


def test_fewer_frames_than_expected_go_to_a_shorter_bucket(path: Path) -> None:
    item = reader(9, 17).read(window(path, start=1.44, num_frames=17))
    assert isinstance(item, WindowClip)
    assert item.clip.frames.shape[0] == 9


def test_fewer_frames_than_any_bucket_are_told(path: Path) -> None:
    item = reader(33).read(window(path, start=1.44, num_frames=33))
    assert isinstance(item, DroppedClip)
    assert item.reason == "is too short: 13 frames at 25 a second, wanted 33 at the least"


def test_filters_tell_their_reason(path: Path) -> None:
    item = reader(filters={"silent": Silent()}).read(window(path))
    assert item == DroppedClip(key="a_0", split="train", reason="is silent: no sound track")


class Remarks(Silent):
    """Keeps everything, and has something to say of it."""

    def judge(self, _: Clip) -> Verdict:
        return Verdict(remark="are remarkable")


def test_what_filters_remark_is_noted(path: Path) -> None:
    item = reader(filters={"one": Remarks(), "other": Remarks()}).read(window(path))
    assert isinstance(item, WindowClip)
    assert item.notes == ("are remarkable", "are remarkable")


@pytest.mark.parametrize(
    ("num_frames", "said", "hears_words", "is_part"),
    [(9, True, False, True), (9, True, True, True), (9, False, False, False), (49, True, False, False)],
)
def test_words_of_a_file_that_goes_on_are_not_the_clips(
    tmp_path: Path, path: Path, num_frames: int, said: bool, hears_words: bool, is_part: bool
) -> None:
    film = tmp_path / "a.mp4"
    film.write_bytes(path.read_bytes())
    words = '\n\nDialogue:\n<Man, English>: "It grows light."' if said else ""
    film.with_suffix(".txt").write_text(f"It grows light.{words}")
    item = replace(reader(), hears_words=hears_words).read(window(film, num_frames=num_frames))
    assert isinstance(item, WindowClip)
    assert item.window.is_part == is_part
    assert item.notes == ((PART_NOTE,) if is_part and not hears_words else ())


@pytest.mark.parametrize(("peak", "is_sound"), [(0.0, False), (2.0**-17, False), (2.0**-14, True)])
def test_a_mute_track_is_no_sound_and_a_quiet_one_is(peak: float, is_sound: bool) -> None:
    waveform = torch.zeros(640)
    waveform[100] = -peak
    frames = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    clip = Clip(frames=frames, frames_per_second=25.0, waveform=waveform, samples_per_second=16_000)
    kept = without_mute_track(clip)
    assert kept.waveform is (waveform if is_sound else None)
    assert kept.frames is frames


def test_a_window_of_a_mute_track_has_no_sound(tmp_path: Path) -> None:
    frames = torch.full((50, 48, 64, 3), 90, dtype=torch.uint8)
    waveform = torch.cat([torch.zeros(16_000), 0.3 * torch.sin(0.2 * torch.arange(16_000))])
    path = tmp_path / "a.mp4"
    write_clip(path, Clip(frames=frames, frames_per_second=25.0, waveform=waveform, samples_per_second=16_000))
    path.with_suffix(".txt").write_text("It hums.")
    mute, heard = reader().read(window(path)), reader().read(window(path, start=1.2))
    assert isinstance(mute, WindowClip) and isinstance(heard, WindowClip)
    assert mute.clip.waveform is None
    assert heard.clip.waveform is not None and float(heard.clip.waveform.abs().max()) > 0.2


def test_a_missing_caption_is_for_the_captioner(tmp_path: Path, path: Path) -> None:
    bare = tmp_path / "bare.mp4"
    bare.write_bytes(path.read_bytes())
    refused = reader().read(window(bare))
    assert isinstance(refused, DroppedClip)
    assert refused.reason.startswith("no caption")
    item = reader(needs_caption=False).read(window(bare))
    assert isinstance(item, WindowClip)
    assert item.metadata.prompt.description == ""
    assert not reader().is_described(window(bare).file)
    assert reader(needs_caption=False).is_described(window(bare).file)


def test_a_broken_caption_is_not(tmp_path: Path, path: Path) -> None:
    bare = tmp_path / "bare.mp4"
    bare.write_bytes(path.read_bytes())
    bare.with_suffix(".json").write_text("{")
    item = reader(needs_caption=False).read(window(bare))
    assert isinstance(item, DroppedClip)
    assert "JSON" in item.reason


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    assert isinstance(reader(needs_caption=False).read(window(tmp_path / "gone.mp4")), DroppedClip)


def test_results_come_in_order_and_few_wait() -> None:
    taken = []
    lock = threading.Lock()

    def items() -> object:
        for number in range(40):
            with lock:
                taken.append(number)
            yield number

    def slow(number: int) -> int:
        time.sleep(0.001 * (number % 5))
        return number * number

    found = []
    for result in in_parallel(slow, items(), num_workers=3):  # type: ignore[arg-type]
        found.append(result)
        assert len(taken) - len(found) <= 7
    assert found == [number * number for number in range(40)]
