"""Footage folders: finding the clips, reading media and captions, telling why a clip is left out."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from hh_train.data.footage.captions import metadata_beside
from hh_train.data.footage.media_folder import MEDIA_SUFFIXES, FoundMedia, media_below
from hh_train.data.footage.raw_shards import unpack_shard
from hh_train.data.footage.tables import TABLE_SUFFIXES, read_table
from hh_train.data.media.files import MediaReader
from hh_train.types import Clip, ClipMetadata, Prompt

SPLITS = ("train", "validation", "test")
_MAX_KEY_BYTES = 150
"""Keys are names of files too."""


@dataclass(frozen=True, kw_only=True)
class FootageFile:
    """A media file of footage, with the name and the split that its clip gets."""

    path: Path
    key: str
    """Unique in the footage; without dots and slashes, as the names in a shard must be."""
    split: str
    """train, validation or test."""
    metadata: ClipMetadata | None = None
    """What a table says of the clip; None when all that is known lies beside the media. See `read_metadata`."""
    problem: str | None = None
    """Why the clip cannot be used, where that is known before its media is read."""


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


def find_footage(
    source: str | Path, *, held_out_share: float = 0.05, unpack_to: str | Path | None = None
) -> tuple[FootageFile, ...]:
    """The media files of a source, sorted by split and key; those that cannot be used too, with their problem.

    A source is a folder of media; a table of them (.csv, .tsv, .json, .jsonl: see `hh_train.data.footage.tables`); or a
    tar of raw clips, or a folder of such tars and no media, which are unpacked.

    Files below `train/`, `validation/` and `test/` belong to that split, and so do rows of a table whose column says
    so and tars whose names start so. A source that says nothing is one set: of the clips in the order of a hash of
    their names, the first `held_out_share` go to validation, as many to test (one each at the least, where there are
    three), the rest to training.

    Args:
        source: the folder, table or tar.
        held_out_share: for validation, and as much for test, where the source names no splits.
        unpack_to: the folder that tars are unpacked into.

    Raises:
        ValueError: the source is missing or has no media, tars have no folder to go to, or the share is no share.
    """
    root = Path(source)
    if not 0.0 <= held_out_share < 0.5:
        raise ValueError(f"got held_out_share {held_out_share}; wanted a number from 0 to below 0.5")
    if not root.exists():
        kind = "table" if root.suffix.lower() in TABLE_SUFFIXES else "folder"
        raise ValueError(f"the footage {kind} {root} does not exist: render or copy clips into it, or change `footage`")
    found = _found_in(root, None if unpack_to is None else Path(unpack_to))
    if not found:
        raise ValueError(f"the footage {root} holds no media: wanted files ending in {', '.join(MEDIA_SUFFIXES)}")
    files = _with_keys(found)
    if not any(media.split for media in found):
        files = _split_by_hash(files, held_out_share)
    return tuple(sorted(files, key=lambda file: (SPLITS.index(file.split), file.key)))


def _found_in(root: Path, unpack_to: Path | None) -> list[FoundMedia]:
    if root.is_file() and root.suffix.lower() in TABLE_SUFFIXES:
        return read_table(root)
    if root.is_file() and root.suffix.lower() != ".tar":
        raise ValueError(f"the footage {root} is a single file; wanted a folder, a .tar or a table ({TABLE_SUFFIXES})")
    if root.is_dir():
        folders = {split: root / split for split in SPLITS if (root / split).is_dir()}
        if folders:
            found = [replace(m, split=split) for split, folder in folders.items() for m in media_below(folder)]
        else:
            found = media_below(root)
        if found:
            return found
    shards = [root] if root.is_file() else sorted(path for path in root.rglob("*.tar") if path.is_file())
    if shards and unpack_to is None:
        raise ValueError(f"the footage {root} is in tars; wanted a folder to unpack them into (unpack_to)")
    base = root.parent if root.is_file() else root
    return [
        media
        for shard in shards
        if unpack_to is not None
        for media in unpack_shard(shard, unpack_to, name=shard.relative_to(base).with_suffix("").as_posix())
    ]


def _with_keys(found: Sequence[FoundMedia]) -> list[FootageFile]:
    """Keys are names with `_` for all but letters, digits and hyphens; those that would be equal get a hash as well."""
    plain = [_plain_key(media.name) for media in found]
    counts = Counter(plain)
    files: list[FootageFile] = []
    taken: Counter[str] = Counter()
    for media, name in zip(found, plain, strict=True):
        key = name
        if counts[name] > 1 or len(name.encode()) > _MAX_KEY_BYTES:
            digest = hash_order(f"{media.split}/{media.name}").hex()[:8]
            key = f"{name.encode()[:_MAX_KEY_BYTES].decode(errors='ignore')}-{digest}"
        taken[key] += 1
        if taken[key] > 1:  # one file in several rows of a table
            key = f"{key}-{taken[key]}"
        files.append(
            FootageFile(
                path=media.path, key=key, split=media.split or "train", metadata=media.metadata, problem=media.problem
            )
        )
    return files


def _plain_key(name: str) -> str:
    return re.sub(r"[^\w-]+", "_", unicodedata.normalize("NFC", PurePath(name).with_suffix("").as_posix()))


def hash_order(key: str) -> bytes:
    """A fixed order that has nothing to do with names, the same on every machine."""
    return hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8).digest()


def _split_by_hash(files: list[FootageFile], share: float) -> list[FootageFile]:
    if share == 0.0 or len(files) < 3:
        return files
    count = max(1, round(share * len(files)))
    ordered = sorted(files, key=lambda file: hash_order(file.key))
    names = ["validation"] * count + ["test"] * count
    held_out = [replace(file, split=split) for file, split in zip(ordered, names, strict=False)]
    return held_out + ordered[2 * count :]


def read_metadata(file: FootageFile, *, caption_required: bool = True) -> ClipMetadata:
    """What the source says of the clip, completed by what lies beside the media.

    That is `<name>.json` with `ClipMetadata`'s fields, or else the caption in `<name>.txt`.

    Args:
        file: as found.
        caption_required: otherwise a clip that has none gets an empty description.

    Raises:
        ValueError: the file has a problem, there is no caption, or what there is cannot be understood.
    """
    if file.problem is not None:
        raise ValueError(file.problem)
    given = file.metadata
    if given is None or not given.prompt.description:
        given = _completed(given, metadata_beside(file.path, file.key))
    if given is not None and (given.prompt.description or not caption_required):
        return replace(given, key=file.key)
    if not caption_required:
        return ClipMetadata(key=file.key, prompt=Prompt(description=""))
    if file.path.with_suffix(".txt").is_file():
        raise ValueError("no caption: the .txt is empty")
    raise ValueError("no caption: wanted a .txt, or a .json with a description, beside the media file")


def _completed(given: ClipMetadata | None, beside: ClipMetadata | None) -> ClipMetadata | None:
    """What a table says without a caption, with the caption that lies beside the media."""
    if given is None or beside is None:
        return given or beside
    prompt = Prompt(
        description=beside.prompt.description,
        dialogue=given.prompt.dialogue or beside.prompt.dialogue,
        background_sound=given.prompt.background_sound or beside.prompt.background_sound,
    )
    return replace(
        given,
        prompt=prompt,
        transcript=given.transcript or beside.transcript,
        language=given.language or beside.language,
        speaker=given.speaker or beside.speaker,
    )


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
