"""Which clips a footage folder has, in which split, with which caption; and why others are left out."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from hh_train.data.footage.files import (
    SPLITS,
    DroppedClip,
    FootageClip,
    FootageFile,
    find_footage,
    read_clip,
    read_footage,
    read_metadata,
)
from hh_train.data.media.files import MediaReader
from hh_train.types import Clip, DialogueLine, Prompt

CAPTION = Prompt(
    description="A woman with short hair",
    dialogue=(DialogueLine(speaker="Woman", language="English", line="two five three"),),
    background_sound="quiet room",
).compose()


@dataclass(frozen=True, kw_only=True)
class PretendReader(MediaReader):
    """Gives every file five gray frames; the first file asked for takes longest."""

    def read(self, path: str | Path) -> Clip:
        if Path(path).stem.endswith("0"):
            time.sleep(0.05)
        assert threading.current_thread() is not threading.main_thread()
        frames = torch.full((5, 8, 8, 3), 100, dtype=torch.uint8)
        return Clip(frames=frames, frames_per_second=25.0, waveform=None, samples_per_second=16_000)


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def file_at(path: Path, key: str = "key") -> FootageFile:
    return FootageFile(path=path, key=key, split="train")


def test_split_folders(tmp_path: Path) -> None:
    names = ("train/b.mp4", "train/day 1/c.d.MOV", "validation/v.webm", "test/t.mkv", "train/note.txt", "train/.x.mp4")
    found = find_footage(touch(tmp_path, *names))
    assert [(file.split, file.key) for file in found] == [
        ("train", "b"),
        ("train", "day_1_c_d"),
        ("validation", "v"),
        ("test", "t"),
    ]


def test_a_folder_without_splits_is_split_by_name_alone(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        touch(tmp_path / folder, *(f"clip{number}.mp4" for number in range(40)))
    touch(tmp_path / "two", "another.mp4")
    one = {file.key: file.split for file in find_footage(tmp_path / "one", held_out_share=0.1)}
    two = {file.key: file.split for file in find_footage(tmp_path / "two", held_out_share=0.1)}
    assert {split: list(one.values()).count(split) for split in SPLITS} == {"train": 32, "validation": 4, "test": 4}
    changed = [key for key, split in one.items() if two[key] != split]
    assert len(changed) <= 2  # a clip more moves at most one clip over each border
    assert {key for key, split in one.items() if split != "train"} != {f"clip{n}" for n in range(8)}


def test_few_clips_and_no_held_out_share(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    assert sorted(file.split for file in find_footage(tmp_path)) == ["test", "train", "validation"]
    assert {file.split for file in find_footage(tmp_path, held_out_share=0.0)} == {"train"}


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        find_footage(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="holds no media"):
        find_footage(tmp_path)
    with pytest.raises(ValueError, match="held_out_share"):
        find_footage(tmp_path, held_out_share=0.7)
    with pytest.raises(ValueError, match="is a single file"):
        find_footage(touch(tmp_path, "a.mp4") / "a.mp4")


def test_names_that_would_share_a_key_get_a_hash(tmp_path: Path) -> None:
    names = ("a b.mp4", "a_b.mp4", "a_b.mov", "c.mp4", "é.mp4", f"{'x' * 200}.mp4", "🎬.mp4", "🎞.mp4")
    files = find_footage(touch(tmp_path / "one", *names), held_out_share=0.0)
    keys = {file.path.name: file.key for file in files}
    assert len(set(keys.values())) == len(names)
    assert all(re.fullmatch(r"a_b-[0-9a-f]{8}", keys[name]) for name in names[:3])
    assert (keys["c.mp4"], keys["é.mp4"]) == ("c", "é")
    assert re.fullmatch(r"x{150}-[0-9a-f]{8}", keys[names[5]])
    again = find_footage(touch(tmp_path / "two", *names, "d.mp4"), held_out_share=0.0)
    assert {file.path.name: file.key for file in again if file.path.name != "d.mp4"} == keys


def test_a_name_in_two_splits(tmp_path: Path) -> None:
    files = find_footage(touch(tmp_path, "train/a.mp4", "test/a.mp4", "test/b.mp4"))
    assert [(file.split, file.key[:2]) for file in files] == [("train", "a-"), ("test", "a-"), ("test", "b")]
    assert len({file.key for file in files}) == 3


def test_a_clip_with_a_problem_is_dropped_for_it(tmp_path: Path) -> None:
    file = FootageFile(path=tmp_path / "a.mp4", key="a", split="test", problem="row 3 of the table: no path")
    assert read_clip(file, PretendReader()) == DroppedClip(key="a", split="test", reason="row 3 of the table: no path")


def test_a_caption_is_taken_apart(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(CAPTION)
    metadata = read_metadata(file_at(tmp_path / "a.mp4", "a"))
    assert metadata.prompt.compose() == CAPTION
    assert (metadata.key, metadata.transcript, metadata.language) == ("a", "two five three", None)


def test_fields_are_preferred_to_the_caption(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the caption")
    (tmp_path / "a.json").write_text(
        json.dumps({"key": "old", "description": "the fields", "language": "ja", "truth": {}})
    )
    metadata = read_metadata(file_at(tmp_path / "a.mp4", "new"))
    assert (metadata.key, metadata.prompt.description, metadata.language) == ("new", "the fields", "ja")
    (tmp_path / "a.json").write_text(json.dumps({"camera": "left"}))
    assert read_metadata(file_at(tmp_path / "a.mp4")).prompt.description == "the caption"


@pytest.mark.parametrize(
    ("caption", "fields", "reason"),
    [
        (None, None, "no caption: wanted a .txt"),
        ("  \n", None, "the .txt is empty"),
        ("A man\n\nDialogue:\nhe says hello", None, "he says hello"),
        (None, "{", "is not JSON"),
        (None, '{"description": 3}', "description is 3, wanted text"),
        (None, '{"description": "d", "transcript": ["a"]}', "transcript is"),
        (None, '{"description": "d", "dialogue": [{"words": "a"}]}', "malformed fields"),
        (None, '{"description": "d", "dialogue": 3}', "malformed fields"),
    ],
)
def test_bad_captions_drop_the_clip(tmp_path: Path, caption: str | None, fields: str | None, reason: str) -> None:
    if caption is not None:
        (tmp_path / "a.txt").write_text(caption)
    if fields is not None:
        (tmp_path / "a.json").write_text(fields)
    dropped = read_clip(file_at(tmp_path / "a.mp4"), PretendReader())
    assert isinstance(dropped, DroppedClip)
    assert (dropped.key, dropped.split) == ("key", "train")
    assert reason in dropped.reason


def test_a_caption_in_no_encoding_drops_the_clip(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00\xd8")
    assert isinstance(read_clip(file_at(tmp_path / "a.mp4"), PretendReader()), DroppedClip)


def test_clips_come_in_order_with_the_bad_ones_in_place(tmp_path: Path) -> None:
    for number in range(12):
        touch(tmp_path, f"{number:02d}.mp4")
        if number % 3:
            (tmp_path / f"{number:02d}.txt").write_text(CAPTION)
    files = find_footage(tmp_path, held_out_share=0.0)
    items = list(read_footage(files, PretendReader(), num_workers=3))
    keys = [item.file.key if isinstance(item, FootageClip) else item.key for item in items]
    assert keys == [f"{number:02d}" for number in range(12)]
    assert [isinstance(item, DroppedClip) for item in items] == [number % 3 == 0 for number in range(12)]


def test_a_folder_of_real_footage(real_clip: Callable[[str], Path]) -> None:
    frames = {"WolfgangLanger_Pexels": 101, "jwpIntro": 101, "obama_speech": 101, "park": 13, "testMovie": 101}
    folder = {real_clip(name).parent for name in frames}.pop()
    files = find_footage(folder, held_out_share=0.0)
    assert {file.key for file in files} == set(frames)
    clips = list(read_footage(files, MediaReader(size=(64, 96), max_frames=101), num_workers=2))
    assert all(isinstance(clip, FootageClip) for clip in clips)
    for file, clip in zip(files, clips, strict=True):
        assert isinstance(clip, FootageClip)
        assert clip.clip.frames.shape == (frames[file.key], 64, 96, 3)
        assert clip.clip.waveform is not None and clip.clip.waveform.shape == (frames[file.key] * 640,)
        assert len(clip.metadata.prompt.description.split()) > 8
        motion = (clip.clip.frames[1:].float() - clip.clip.frames[:-1].float()).abs().mean()
        assert motion > 0.1
