"""Footage folders: finding the clips, reading media and captions, telling why a clip is left out."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hh_train.data.media import MediaReader
from hh_train.types import Clip, ClipMetadata, Prompt

MEDIA_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi")
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class FootageFile:
    """A media file of a footage folder, with the name and the split that its clip gets."""

    path: Path
    key: str
    """Unique in the folder; without dots and slashes, as the names in a shard must be."""
    split: str
    """train, validation or test."""


@dataclass(frozen=True, kw_only=True)
class FootageClip:
    """A clip read from footage, with what is known about it."""

    file: FootageFile
    clip: Clip
    metadata: ClipMetadata


@dataclass(frozen=True, kw_only=True)
class DroppedClip:
    """A clip that was left out, and why."""

    key: str
    split: str
    reason: str


def find_footage(folder: str | Path, *, held_out_share: float = 0.05) -> tuple[FootageFile, ...]:
    """The media files below a folder, sorted by split and key.

    Files below `train/`, `validation/` and `test/` belong to that split. A folder without these is one set: of the
    clips in the order of a hash of their names, the first `held_out_share` go to validation, as many to test (one each
    at the least, where there are three), the rest to training.

    Raises:
        ValueError: the folder is missing or has no media, two files would get the same key, or the share is no share.
    """
    root = Path(folder)
    if not 0.0 <= held_out_share < 0.5:
        raise ValueError(f"got held_out_share {held_out_share}; wanted a number from 0 to below 0.5")
    if not root.is_dir():
        raise ValueError(f"the footage folder {root} does not exist: render or copy clips into it, or change `footage`")
    split_folders = {split: root / split for split in SPLITS if (root / split).is_dir()}
    if split_folders:
        found = [file for split, base in split_folders.items() for file in _media(base, split)]
    else:
        found = _split_by_hash(_media(root, "train"), held_out_share)
    if not found:
        raise ValueError(
            f"the footage folder {root} holds no media: wanted files ending in {', '.join(MEDIA_SUFFIXES)}"
        )
    taken: dict[str, Path] = {}
    for file in found:
        other = taken.setdefault(file.key, file.path)
        if other is not file.path:
            raise ValueError(f"{other} and {file.path} would both be the clip {file.key!r}: rename one of them")
    return tuple(sorted(found, key=lambda file: (SPLITS.index(file.split), file.key)))


def _media(folder: Path, split: str) -> list[FootageFile]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in MEDIA_SUFFIXES and path.is_file())
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in paths]
    return [
        FootageFile(path=path, key=re.sub(r"[^\w-]+", "_", name), split=split)
        for path, name in zip(paths, names, strict=True)
        if not path.name.startswith(".")
    ]


def hash_order(key: str) -> bytes:
    """A fixed order that has nothing to do with names, the same on every machine."""
    return hashlib.blake2b(key.encode(), digest_size=8).digest()


def _split_by_hash(files: list[FootageFile], share: float) -> list[FootageFile]:
    if share == 0.0 or len(files) < 3:
        return files
    count = max(1, round(share * len(files)))
    ordered = sorted(files, key=lambda file: hash_order(file.key))
    names = ["validation"] * count + ["test"] * count
    held_out = [replace(file, split=split) for file, split in zip(ordered, names, strict=False)]
    return held_out + ordered[2 * count :]


def read_metadata(file: FootageFile) -> ClipMetadata:
    """What lies beside the media: `<name>.json` with `ClipMetadata`'s fields, or else the caption in `<name>.txt`.

    Raises:
        ValueError: there is neither, or it cannot be understood.
    """
    fields_path, caption_path = file.path.with_suffix(".json"), file.path.with_suffix(".txt")
    if fields_path.is_file():
        try:
            fields = json.loads(fields_path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"the .json beside the clip is not JSON: {error}") from error
        if isinstance(fields, Mapping) and "description" in fields:
            return _metadata_from_fields(fields, file.key)
    if not caption_path.is_file():
        raise ValueError("no caption: wanted a .txt, or a .json with a description, beside the media file")
    caption = caption_path.read_text(encoding="utf-8").strip()
    if not caption:
        raise ValueError("no caption: the .txt is empty")
    prompt = Prompt.parse(caption)
    spoken = " ".join(line.line for line in prompt.dialogue)
    return ClipMetadata(key=file.key, prompt=prompt, transcript=spoken or None)


def _metadata_from_fields(fields: Mapping[str, Any], key: str) -> ClipMetadata:
    for name in ("description", "background_sound", "transcript", "language", "speaker"):
        value = fields.get(name)
        if not isinstance(value, str) and (value is not None or name == "description"):
            raise ValueError(f"the .json beside the clip has malformed fields: {name} is {value!r}, wanted text")
    try:
        return ClipMetadata.from_json({**fields, "key": key})
    except (TypeError, AttributeError) as error:
        raise ValueError(f"the .json beside the clip has malformed fields: {error}") from error


def read_clip(file: FootageFile, reader: MediaReader) -> FootageClip | DroppedClip:
    """The clip with its metadata, or the reason why there is none. Never raises on bad input."""
    try:
        metadata = read_metadata(file)
        return FootageClip(file=file, clip=reader.read(file.path), metadata=metadata)
    except (ValueError, OSError) as error:
        return DroppedClip(key=file.key, split=file.split, reason=str(error))


def read_footage(
    files: Iterable[FootageFile], reader: MediaReader, *, num_workers: int | None = None
) -> Iterator[FootageClip | DroppedClip]:
    """Reads the clips in the given order, `num_workers` at a time (as many as there are processors by default).

    Decoding releases Python's lock, hence threads. At most twice as many clips as workers wait in memory.
    """
    workers = max(1, num_workers if num_workers is not None else os.cpu_count() or 1)
    with ThreadPoolExecutor(workers, thread_name_prefix="footage") as pool:
        waiting: deque[Future[FootageClip | DroppedClip]] = deque()
        for file in files:
            waiting.append(pool.submit(read_clip, file, reader))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
