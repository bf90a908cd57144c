"""Tars of raw clips (webdataset: the files of a sample share their name up to the first dot), unpacked safely."""

from __future__ import annotations

import errno
import json
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from hh_train.data.footage.media_folder import MEDIA_SUFFIXES, FoundMedia

_BESIDE = (".txt", ".json")
_RECORD = ".unpacked.json"
_PARTIAL = ".member.partial"
_BLOCK = 512
_SPLIT = re.compile(r"(train|validation|val|test)(?![a-z])")


def unpack_shard(shard: Path, folder: Path, *, name: str) -> list[FoundMedia]:
    """The clips of a tar, unpacked into `folder/name`; what is there already stays while the tar is the same.

    A name that starts with train, validation, val or test says the split.

    A member that is no plain file, or would lie outside the folder, is a clip with a problem; so is the rest of a tar
    that is damaged or cut.

    Raises:
        OSError: there is not room enough, or the folder cannot be written.
    """
    target = folder / name
    status = shard.stat()
    stamp = {"bytes": status.st_size, "modified": status.st_mtime_ns}
    record = _read_record(target, stamp)
    if record is None:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        found = list(_unpacked(shard, target))
        record = {**stamp, "clips": [[member, problem] for member, problem in found]}
        partial = target / f"{_RECORD}.partial"
        partial.write_text(json.dumps(record), encoding="utf-8")
        partial.replace(target / _RECORD)
    match = _SPLIT.match(name)
    split = None if match is None else {"val": "validation"}.get(match[1], match[1])
    return [
        FoundMedia(path=target / member, name=f"{name}/{member}", split=split, problem=problem)
        for member, problem in record["clips"]
    ]


def _read_record(target: Path, stamp: dict[str, int]) -> dict[str, Any] | None:
    """The record of an earlier unpacking of the same tar, if that was finished."""
    try:
        record: dict[str, Any] = json.loads((target / _RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if {field: record.get(field) for field in stamp} == stamp else None


def _unpacked(shard: Path, target: Path) -> Iterator[tuple[str, str | None]]:
    """Media members by their names below the target, each with what is wrong with it."""
    try:
        with tarfile.open(shard, "r:") as tar:
            yield from _members_unpacked(tar, shard, target)
    except tarfile.TarError as error:
        yield "unreadable", f"{shard.name} cannot be read as a tar: {error}"


def _members_unpacked(tar: tarfile.TarFile, shard: Path, target: Path) -> Iterator[tuple[str, str | None]]:
    taken: set[str] = set()
    num_bytes = shard.stat().st_size
    if shutil.disk_usage(target).free < num_bytes:
        raise OSError(f"no room to unpack {shard} into {target}: it has {num_bytes} bytes")
    while True:
        try:
            info = tar.next()
        except tarfile.TarError as error:
            yield "the_rest", f"{shard.name} is damaged from byte {tar.offset} on: {error}"
            return
        if info is None:
            break
        path = PurePosixPath(info.name)
        if info.isdir() or path.suffix.lower() not in (*MEDIA_SUFFIXES, *_BESIDE) or path.name.startswith("."):
            continue
        problem = _fault(info, path, num_bytes)
        if problem is None and info.name in taken:
            problem = "the tar has two members of this name"
        taken.add(info.name)
        if problem is None:
            problem = _extract(tar, info, target / path, target / _PARTIAL)
        if path.suffix.lower() in MEDIA_SUFFIXES:
            name = path.as_posix()
            yield (
                (name if problem is None else _harmless(name)),
                None if problem is None else f"{shard.name}: {problem}",
            )
    damage = _damage_at_end(shard, tar.offset)
    if damage is not None:
        yield "the_rest", f"{shard.name} {damage}"


def _fault(info: tarfile.TarInfo, path: PurePosixPath, num_bytes: int) -> str | None:
    if path.is_absolute() or ".." in path.parts or "\\" in info.name or "\0" in info.name:
        return f"the member {info.name!r} would lie outside the folder"
    if not info.isreg() or info.issparse():
        return f"the member {info.name!r} is no plain file"
    if info.size > num_bytes:
        return f"the member {info.name!r} claims {info.size} bytes, more than the whole tar has"
    return None


def _extract(tar: tarfile.TarFile, info: tarfile.TarInfo, destination: Path, partial: Path) -> str | None:
    """Writes one member, and tells what went wrong."""
    source = tar.extractfile(info)
    if source is None:
        return f"the member {info.name!r} is no plain file"
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            shutil.copyfileobj(source, file)
        if partial.stat().st_size != info.size:
            return f"the member {info.name!r} is cut"
        partial.replace(destination)
    except (tarfile.TarError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        return f"the member {info.name!r} cannot be unpacked: {error}"
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ):
            return f"the member {info.name!r} cannot be unpacked: {error.strerror}"
        raise
    finally:
        partial.unlink(missing_ok=True)
    return None


def _harmless(name: str) -> str:
    return re.sub(r"\.\.|[\\\0]", "_", name).lstrip("/")


def _damage_at_end(shard: Path, offset: int) -> str | None:
    """A sound tar ends in zeros; anything else where the next member should start is damage."""
    with shard.open("rb") as file:
        file.seek(offset)
        block = file.read(_BLOCK)
    if not block:
        return "is cut: it has no end mark"
    return None if not block.strip(b"\0") else f"is damaged from byte {offset} on"
