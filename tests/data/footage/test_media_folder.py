"""Folders full of damaged, unusual and misnamed media: what is found, what is read, and that nothing stops the rest."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from hh_train.data.footage.files import DroppedClip, FootageClip, FootageFile, find_footage, read_footage
from hh_train.data.footage.media_folder import media_below
from hh_train.data.media.files import MediaError, MediaReader

Items = dict[str, tuple[FootageFile, FootageClip | DroppedClip]]
Corpus = tuple[Path, dict[str, Any]]


def load_odd_media() -> ModuleType:
    """The script beside this file."""
    path = Path(__file__).with_name("odd_media.py")
    spec = importlib.util.spec_from_file_location("odd_media", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["odd_media"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("odd")
    return folder, {odd.name: odd for odd in load_odd_media().make_odd_media(folder)}


@pytest.fixture(scope="module")
def items(corpus: Corpus) -> Items:
    """What became of every file, by its name in the folder."""
    folder, _ = corpus
    files = find_footage(folder, held_out_share=0.0)
    read = read_footage(files, MediaReader(), num_workers=2)
    return {str(file.path.relative_to(folder)): (file, item) for file, item in zip(files, read, strict=True)}


def test_every_file_is_kept_or_told_of(corpus: Corpus, items: Items) -> None:
    _, odd = corpus
    assert len(odd) >= 60
    assert set(items) == set(odd)
    assert len({file.key for file, _ in items.values()}) == len(items)
    assert all(re.fullmatch(r"[\w-]{1,200}", file.key) for file, _ in items.values())


def test_what_becomes_of_each(corpus: Corpus, items: Items) -> None:
    _, odd = corpus
    wrong = []
    for name, expected in odd.items():
        item = items[name][1]
        if isinstance(item, DroppedClip):
            if expected.frames or not item.reason or not re.search(expected.reason, item.reason):
                wrong.append((name, "dropped", item.reason, expected))
        elif (expected.frames and item.clip.frames.shape[0] != expected.frames) or expected.reason:
            wrong.append((name, "kept", tuple(item.clip.frames.shape), expected))
        elif expected.size and tuple(item.clip.frames.shape[1:3]) != expected.size:
            wrong.append((name, "size", tuple(item.clip.frames.shape), expected))
        elif expected.frames and (item.clip.waveform is not None) != expected.has_sound:
            wrong.append((name, "sound", item.clip.waveform is not None, expected))
    assert not wrong, "\n".join(map(str, wrong))


def test_what_is_kept_of_the_base_clip_is_right(corpus: Corpus, items: Items) -> None:
    """Whatever the file was called and however it was packed: the same rising gray."""
    gray_of = sys.modules["odd_media"].gray_of
    wanted = torch.tensor([gray_of(index) for index in range(25)], dtype=torch.float32)
    checked = 0
    for name, (_, item) in items.items():
        if name.startswith(("names/", "kind_", "rotated", "good", "mono", "surround", "captions/")) and isinstance(
            item, FootageClip
        ):
            shades = item.clip.frames.float().mean((1, 2, 3))
            assert (shades - wanted).abs().max() < 6, name
            checked += 1
    assert checked > 30


def test_damage_never_shows_in_what_is_kept(corpus: Corpus, items: Items) -> None:
    """A clip that survived a cut or flipped bytes is a true head of the undamaged one."""
    gray_of = sys.modules["odd_media"].gray_of
    for name, (_, item) in items.items():
        if name.startswith(("media_cut", "cut", "hole", "flipped")) and isinstance(item, FootageClip):
            shades = item.clip.frames.float()
            wanted = torch.tensor([gray_of(index) for index in range(shades.shape[0])])
            assert (shades - wanted[:, None, None, None]).abs().max() < 12, name


def test_probing_agrees_with_reading(corpus: Corpus, items: Items) -> None:
    reader = MediaReader()
    for name, (file, item) in items.items():
        if isinstance(item, FootageClip):
            info = reader.probe(file.path)
            assert (info.height, info.width) == tuple(item.clip.frames.shape[1:3]), name
            assert info.has_audio == (item.clip.waveform is not None), name
            assert info.is_image == (item.clip.frames.shape[0] == 1), name
            assert info.seconds < 1e5, name
        elif item.reason.startswith(("cannot be read", "has no picture")):
            with pytest.raises(MediaError):
                reader.probe(file.path)


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.mp4").touch()
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "sub" / "b.mov").touch()
    (tmp_path / "folder" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "folder")
    assert [media.name for media in media_below(tmp_path / "folder")] == ["linked/a.mp4", "sub/b.mov"]


def test_previews_and_hidden_files_are_left_out(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.jpg", "b.jpg", ".c.mp4", ".hidden/d.mp4", "notes.txt", "b.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [media.name for media in media_below(tmp_path)] == ["a.mp4", "b.jpg"]
