from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import render
import speech

from hh_train.data.footage.files import find_footage, read_metadata
from hh_train.types import ClipMetadata, Prompt


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _render(folder: Path, clips: str, *options: str) -> int:
    return render.main(["--output", str(folder), "--clips-per-split", clips, *options])


def test_two_workers_write_the_same_bytes_as_one(footage: Path, tmp_path: Path) -> None:
    assert _render(tmp_path, "train=5,validation=2,test=2", "--workers", "2") == 0
    assert _files(tmp_path) == _files(footage)


def test_the_folder_is_footage_with_captions_and_metadata(footage: Path) -> None:
    files = find_footage(footage)
    assert [file.split for file in files] == ["train"] * 5 + ["validation"] * 2 + ["test"] * 2
    for file in files:
        metadata = read_metadata(file)
        caption = file.path.with_suffix(".txt").read_text(encoding="utf-8").strip()
        assert caption == metadata.prompt.compose()
        assert Prompt.parse(caption) == metadata.prompt
        assert ClipMetadata.from_json(json.loads(file.path.with_suffix(".json").read_text())) == metadata
        assert metadata.language == "en"
        assert metadata.transcript == metadata.prompt.dialogue[0].line
        assert metadata.speaker is not None
        assert metadata.speaker.startswith(file.split)
        assert file.path.with_suffix(".json").stat().st_size < 6_000


def test_splits_share_no_speaker_and_no_line(footage: Path) -> None:
    by_split: dict[str, list[ClipMetadata]] = {}
    for file in find_footage(footage):
        by_split.setdefault(file.split, []).append(read_metadata(file))
    for one, other in (("train", "test"), ("train", "validation"), ("validation", "test")):
        assert not {m.transcript for m in by_split[one]} & {m.transcript for m in by_split[other]}
        assert not {m.speaker for m in by_split[one]} & {m.speaker for m in by_split[other]}


def test_another_seed_gives_other_clips(footage: Path, tmp_path: Path) -> None:
    assert _render(tmp_path, "train=1", "--workers", "1", "--seed", "1") == 0
    name = "train/train-000000.mp4"
    assert _files(tmp_path)[name] != _files(footage)[name]


def test_a_second_run_does_only_what_is_missing(
    footage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "footage"
    shutil.copytree(footage, folder)
    lost = folder / "train" / "train-000001.mp4"
    lost.unlink()
    (folder / "train" / ".train-000001.mp4.partial").write_bytes(b"half a clip")
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("*.mp4")}
    assert _render(folder, "train=6,validation=2,test=2", "--workers", "1") == 0
    assert "8 of 10 clips are there, 2 to render" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    rendered = _files(folder)
    assert rendered.pop("train/train-000005.mp4")
    assert {name: rendered[name] for name in _files(footage)} == _files(footage)
    assert not list(folder.rglob("*.partial"))


def test_a_folder_holds_one_kind_of_clips(footage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "footage"
    shutil.copytree(footage, folder)
    before = _files(folder)
    assert _render(folder, "train=6", "--seed", "7") == 1
    assert "another recipe" in capsys.readouterr().err
    assert _files(folder) == before


def test_a_clip_that_fails_is_listed_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = render.render_clip

    def fail_once(recipe: render.Recipe, split: str, index: int, folder: Path) -> None:
        if index == 1:
            raise RuntimeError("the pen broke")
        draw(recipe, split, index, folder)

    monkeypatch.setattr(render, "render_clip", fail_once)
    assert _render(tmp_path, "train=3", "--workers", "1") == 1
    assert "left out train-000001: RuntimeError: the pen broke" in capsys.readouterr().err
    assert sorted(path.stem for path in tmp_path.rglob("*.mp4")) == ["train-000000", "train-000002"]


def test_one_test_speaker_in_every_split(footage: Path, tmp_path: Path) -> None:
    assert _render(tmp_path, "train=6,validation=3,test=3", "--workers", "1", "--person", "7") == 0
    assert json.loads((tmp_path / "recipe.json").read_text())["person"] == 7
    found = [(file.split, read_metadata(file)) for file in find_footage(tmp_path)]
    assert {metadata.speaker for _, metadata in found} == {"test-speaker-007"}
    lines = {split: {m.transcript for s, m in found if s == split} for split in ("train", "validation", "test")}
    assert [len(lines["train"] & lines["test"]), len(lines["train"] & lines["validation"])] == [0, 0]
    assert len(lines["train"]) > 3
    assert len({metadata.prompt.description for _, metadata in found}) > 6  # clothes, background, framing
    dialogues = {metadata.prompt.dialogue[0].speaker for _, metadata in found}
    assert len(dialogues) == 1
    assert "person" not in json.loads((footage / "recipe.json").read_text())


def test_another_person_needs_another_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _render(tmp_path, "test=1", "--workers", "1", "--person", "0") == 0
    before = _files(tmp_path)
    for options in (["--person", "1"], []):
        assert _render(tmp_path, "test=2", *options) == 1
        assert "another recipe" in capsys.readouterr().err
    assert _files(tmp_path) == before


def test_all_languages_share_a_folder(tmp_path: Path) -> None:
    options = ["--languages", "zh,yue,en,ja,ko,de,fr", "--content", "mixed", "--two-shot-share", "0.5"]
    assert _render(tmp_path, "train=7", "--workers", "1", *options) == 0
    found = [read_metadata(file) for file in find_footage(tmp_path)]
    assert [metadata.language for metadata in found] == ["zh", "yue", "en", "ja", "ko", "de", "fr"]
    names = [metadata.prompt.dialogue[0].language for metadata in found]
    assert names == ["Mandarin", "Cantonese", "English", "Japanese", "Korean", "German", "French"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--clips-per-split", "trian=3"], "trian=3"),
        (["--size", "65"], "--size 65"),
        (["--size", "big"], "'big'"),
        (["--languages", "en,xx"], "xx"),
        (["--digits", "three"], "--digits"),
        (["--digits", "3-2"], "FEWEST"),
        (["--max-seconds", "0.5"], "--max-seconds"),
        (["--two-shot-share", "2"], "--two-shot-share"),
        (["--framings", "far away"], "--framings"),
        (["--head-motion", "-1"], "--head-motion"),
        (["--person", "16"], "choose from 0 to 15"),
        (["--person", "-1"], "--person -1"),
    ],
)
def test_a_wrong_request_is_named_and_leaves_no_folder(
    options: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert render.main(["--output", str(tmp_path / "footage"), *options]) == 1
    assert named in capsys.readouterr().err
    assert not (tmp_path / "footage").exists()


def test_without_the_library_nothing_is_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    speech.library_paths.cache_clear()
    assert _render(tmp_path / "footage", "train=2") == 1
    assert "pip install 'hh-train[demo]'" in capsys.readouterr().err
    assert not (tmp_path / "footage").exists()
