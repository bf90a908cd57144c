"""Reference clips are known by what is in them, and a broken one is told, not thrown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hh_train.metrics.faces.framed import FramedFaces
from hh_train.metrics.likeness.reference import ReferenceClips
from hh_train.metrics.measurer import Sample
from hh_train.types import Clip


def folder_of(root: Path, texts: dict[str, str], read: Callable[[Path], Clip]) -> ReferenceClips:
    root.mkdir()
    for name, text in texts.items():
        (root / name).write_text(text)
    return ReferenceClips(folder=str(root), paths={"ann": [root / name for name in texts]}, read=read)


def test_the_fingerprint_is_that_of_people_and_contents(tmp_path: Path, clip_of: Callable[[int, int], Clip]) -> None:
    read = lambda path: clip_of(0, 0)  # noqa: E731
    first = folder_of(tmp_path / "one", {"a": "1", "b": "2"}, read)
    moved = folder_of(tmp_path / "two", {"x": "2", "y": "1"}, read)
    other = folder_of(tmp_path / "three", {"a": "1", "b": "3"}, read)
    renamed = ReferenceClips(folder="", paths={"bob": first.paths["ann"]}, read=read)
    assert first.fingerprint == moved.fingerprint
    assert len({first.fingerprint, other.fingerprint, renamed.fingerprint}) == 3


def test_clips_come_with_their_person_or_with_the_reason(tmp_path: Path, clip_of: Callable[[int, int], Clip]) -> None:
    def read(path: Path) -> Clip:
        if path.name == "b":
            raise ValueError("torn")
        return clip_of(0, 1)

    found = list(folder_of(tmp_path / "one", {"a": "1", "b": "2"}, read).samples(FramedFaces()))
    assert [(person, path.name) for person, path, _ in found] == [("ann", "a"), ("ann", "b")]
    assert isinstance(found[0][2], Sample) and found[0][2].clip.frames.shape[0] == 25
    assert isinstance(found[1][2], ValueError) and "torn" in str(found[1][2])
