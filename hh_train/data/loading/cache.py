"""Copies of shards from afar on the local disk, never more than a stated size, shared by all processes of a machine."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from hh_train.data.loading.storage import Storage

log = logging.getLogger(__name__)

_PARTIAL = ".partial"
_LOCK = ".lock"


class DiskCache:
    """Whole files, the least recently used of which make way. A file appears complete or not at all.

    Args:
        folder: where the copies lie. Several caches in one folder share it, and its bound.
        max_bytes: of all files in the folder, those in the middle of a download included. A file that is larger than
            this is not copied.
        version: of what is copied: files of one name and another version are another file.
    """

    def __init__(self, folder: str | Path, *, max_bytes: int, version: str) -> None:
        self.folder = Path(folder).expanduser()
        self.max_bytes = max_bytes
        self.version = version
        self.folder.mkdir(parents=True, exist_ok=True)

    def path(self, storage: Storage, name: str, *, num_bytes: int) -> Path | None:
        """Where the copy of a file lies, downloaded if need be; None when there is no room for it.

        It may be gone a moment later, should others need the room: open it at once, or ask again. Raises what
        `Storage.read` raises.
        """
        copy = self._copy(storage, name)
        if not self._is_used(copy, num_bytes):
            with _locked(copy.with_name(copy.name + _LOCK)):
                if not self._is_used(copy, num_bytes) and not self._download(storage, name, copy, num_bytes):
                    return None
        return copy

    @property
    def num_bytes(self) -> int:
        """That the files take up now."""
        with self._counting():
            return sum(size for _, size, _ in self._files())

    def _copy(self, storage: Storage, name: str) -> Path:
        digest = hashlib.sha256(f"{storage.root}\n{self.version}\n{name}".encode()).hexdigest()[:16]
        return self.folder / f"{digest}-{Path(name).name}"

    def _is_used(self, copy: Path, num_bytes: int) -> bool:
        """Whether the copy is there; if so, it is now the one used last."""
        try:
            os.utime(copy)
            return copy.stat().st_size == num_bytes
        except FileNotFoundError:
            return False

    def _download(self, storage: Storage, name: str, copy: Path, num_bytes: int) -> bool:
        partial = copy.with_name(copy.name + _PARTIAL)
        with self._counting():
            partial.unlink(missing_ok=True)
            if not self._make_room(num_bytes, keep=copy):
                log.debug("no room for %s in %s", name, self.folder)
                return False
            partial.touch()
            os.truncate(partial, num_bytes)  # others count it in full from now on
        try:
            storage.download(name, partial, num_bytes=num_bytes)
            with self._counting():  # a file that changes its name might be counted twice, or not at all
                partial.replace(copy)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return True

    def _counting(self) -> AbstractContextManager[bool]:
        """Holds the folder as it is."""
        return _locked(self.folder / f"room{_LOCK}")

    def _make_room(self, num_bytes: int, *, keep: Path) -> bool:
        """Removes the files used longest ago, but none that a process is downloading."""
        files = sorted(self._files())
        excess = sum(size for _, size, _ in files) + num_bytes - self.max_bytes
        if num_bytes > self.max_bytes:
            return False
        for _, size, path in files:
            if excess <= 0:
                break
            if path != keep and self._remove(path):
                excess -= size
        return excess <= 0

    def _remove(self, path: Path) -> bool:
        lock = path.with_name(path.name.removesuffix(_PARTIAL) + _LOCK)
        with _locked(lock, wait=False) as is_mine:
            if is_mine:
                path.unlink(missing_ok=True)
        return is_mine

    def _files(self) -> list[tuple[int, int, Path]]:
        """Last use, size and path of each."""
        found = []
        for path in self.folder.iterdir():
            if not path.name.endswith(_LOCK):
                with suppress(FileNotFoundError):
                    status = path.stat()
                    found.append((status.st_mtime_ns, status.st_size, path))
        return found


@contextmanager
def _locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Holds a lock that threads and processes, but not machines, know of; says whether it could be had."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)
