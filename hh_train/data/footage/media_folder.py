"""The media files below a folder, whatever else lies there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from hh_train.data.media.pictures import IMAGE_SUFFIXES
from hh_train.types import ClipMetadata

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi")
MEDIA_SUFFIXES = VIDEO_SUFFIXES + IMAGE_SUFFIXES


@dataclass(frozen=True, kw_only=True)
class FoundMedia:
    """A media file, or the place where one should be, before its clip has a key and a split."""

    path: Path
    name: str
    """Where it was found, in the terms of its source, with its suffix: what its key is made of."""
    split: str | None = None
    """None where the source does not say."""
    metadata: ClipMetadata | None = None
    """What the source says of it; None when that lies beside the file."""
    problem: str | None = None
    """Why it cannot be used, where that is known already."""


def media_below(folder: Path) -> list[FoundMedia]:
    """The media files below a folder in the order of their names, hidden ones left out.

    Links to folders are followed, and those that lead back are followed once. An image beside a video of the same name
    is taken for its preview and left out.
    """
    found: list[FoundMedia] = []
    seen: set[tuple[int, int]] = set()

    def tell(error: OSError) -> None:
        path = Path(os.fsdecode(error.filename or folder))
        name = path.relative_to(folder).as_posix()
        found.append(FoundMedia(path=path, name=name, problem=f"the folder cannot be read: {error.strerror}"))

    for base, folders, names in os.walk(folder, onerror=tell, followlinks=True):
        status = Path(base).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found.extend(_files_of(Path(base), folder, names))
    return sorted(found, key=lambda media: media.name)


def _files_of(base: Path, folder: Path, names: list[str]) -> list[FoundMedia]:
    media = [Path(name) for name in names if Path(name).suffix.lower() in MEDIA_SUFFIXES and not name.startswith(".")]
    videos = {name.stem for name in media if name.suffix.lower() in VIDEO_SUFFIXES}
    return [
        FoundMedia(path=base / name, name=(base / name).relative_to(folder).as_posix())
        for name in media
        if name.suffix.lower() in VIDEO_SUFFIXES or name.stem not in videos
    ]
