"""Files below a folder or URL: on disk, or in whatever object storage fsspec knows, with retries."""

from __future__ import annotations

import errno
import io
import logging
import os
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import fsspec  # type: ignore[import-untyped]
import numpy as np

log = logging.getLogger(__name__)

CHUNK_BYTES = 32 * 2**20
"""Of a download, each of which is tried again by itself."""
LONGEST_WAIT_SECONDS = 30.0
_MAX_OPEN_FILES = 64
_LASTING = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError, NotImplementedError, TypeError)
"""What another try does not mend."""
_NO_SUCH_RANGE = 416  # of http; S3's is passed on as EINVAL

Result = TypeVar("Result")
Buffer: TypeAlias = bytearray | memoryview
"""Bytes that may be written to, as tensors want them."""


class TruncatedFileError(EOFError):
    """A file ends before the bytes that were asked for."""


class Storage:
    """Reads files by name below `root`.

    Whatever goes wrong with a read is tried again, after a wait that doubles and varies by chance so that many readers
    do not come back at once. A file that is not there is not asked for again. May be handed to other processes.

    Args:
        root: a local folder, or a URL that fsspec knows: s3://bucket/folder, https://host/folder ...
        options: of fsspec's file system, such as `endpoint_url` or `anon` for S3.
        retries: further tries after a failed one.
        first_wait_seconds: before the second try.

    Raises:
        ValueError: there is no file system for the URL, or the package that it needs is not installed.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        options: Mapping[str, Any] | None = None,
        retries: int = 5,
        first_wait_seconds: float = 0.5,
    ) -> None:
        self.root = str(root).removeprefix("file://").rstrip("/") or "/"
        self.is_local = "://" not in self.root and "::" not in self.root
        self.options = dict(options or {})
        self.retries = retries
        self.first_wait_seconds = first_wait_seconds
        self.num_retries = 0
        """Tries that were repeated so far, in this process."""
        self._file_system: tuple[int, Any] | None = None
        self._files: dict[str, io.FileIO] = {}
        if not self.is_local:
            self._remote()

    def __str__(self) -> str:
        return self.root

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_file_system": None, "_files": {}}

    def path(self, name: str) -> Path:
        """Of a file on disk; for local storage alone."""
        return Path(self.root) / name

    def read(
        self, name: str, *, start: int = 0, num_bytes: int | None = None, into: memoryview | None = None
    ) -> Buffer:
        """The bytes of a file, or `num_bytes` of them from `start` on; where it can be, in the memory `into`.

        Raises:
            FileNotFoundError: there is no such file.
            TruncatedFileError: it is shorter.
            OSError: reading failed, more often than is tried.
        """
        what = f"reading {name} of {self.root}"
        if self.is_local:
            return self._persistently(lambda: self._read_local(name, start, num_bytes, into), what)
        return self._persistently(lambda: self._read_remote(name, start, num_bytes), what)

    def download(self, name: str, path: Path, *, num_bytes: int) -> None:
        """Writes a file of a known size to `path`, piece by piece. Raises what `read` raises."""
        with path.open("r+b" if path.exists() else "w+b") as file:
            for start in range(0, num_bytes, CHUNK_BYTES):
                file.write(self.read(name, start=start, num_bytes=min(CHUNK_BYTES, num_bytes - start)))

    def sizes(self) -> dict[str, int] | None:
        """Bytes of each file directly below `root`; None where files cannot be listed, as with most web servers."""
        if self.is_local:
            with os.scandir(self.root) as entries:
                return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
        try:
            found = self._remote().ls(self._url(""), detail=True, refresh=True)
        except Exception as error:
            log.debug("%s cannot be listed: %s", self.root, error)
            return None
        sizes = {str(entry["name"]).rsplit("/", 1)[-1]: entry.get("size") for entry in found}
        return sizes if sizes and all(isinstance(size, int) for size in sizes.values()) else None

    def _url(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _remote(self) -> Any:
        """The file system, made anew in each process: connections cannot be shared."""
        if self._file_system is None or self._file_system[0] != os.getpid():
            try:
                made, _ = fsspec.core.url_to_fs(self._url(""), **self.options)
            except (ImportError, ValueError) as error:
                raise ValueError(
                    f"cannot read {self.root}: {error}; for s3:// install the extra: pip install 'hh-train[s3]'"
                ) from error
            self._file_system = (os.getpid(), made)
        return self._file_system[1]

    def _read_local(self, name: str, start: int, num_bytes: int | None, into: memoryview | None) -> Buffer:
        file = self._opened(name)
        wanted = max(os.fstat(file.fileno()).st_size - start, 0) if num_bytes is None else num_bytes
        found: memoryview = np.empty(wanted, np.uint8).data if into is None else into
        done = 0
        while done < wanted and (more := os.preadv(file.fileno(), [found[done:]], start + done)):
            done += more
        return _complete(found[:done], name, start, num_bytes)

    def _opened(self, name: str) -> io.FileIO:
        """A file that was opened before, as long as few were since then; closed once nobody holds it."""
        file = self._files.pop(name, None)
        if file is None:
            file = io.FileIO(f"{self.root}/{name}")
        self._files[name] = file
        if len(self._files) > _MAX_OPEN_FILES:
            with suppress(KeyError, RuntimeError, StopIteration):  # another thread was first
                self._files.pop(next(iter(self._files)))
        return file

    def _read_remote(self, name: str, start: int, num_bytes: int | None) -> Buffer:
        stop = None if num_bytes is None else start + num_bytes
        try:
            found: Buffer = bytearray(self._remote().cat_file(self._url(name), start=start or None, end=stop))
        except Exception as error:
            if getattr(error, "status", None) == _NO_SUCH_RANGE or getattr(error, "errno", None) == errno.EINVAL:
                raise TruncatedFileError(f"{name} ends before byte {start}: {error}") from error
            raise
        if num_bytes is not None and len(found) > num_bytes:
            found = found[start:stop]  # from a server that knows no ranges and sends the whole file
        return _complete(found, name, start, num_bytes)

    def _persistently(self, attempt: Callable[[], Result], what: str) -> Result:
        for number in range(self.retries):
            try:
                return attempt()
            except _LASTING:
                raise
            except Exception as error:
                if isinstance(error, TruncatedFileError) and self.is_local:
                    raise
                wait = min(self.first_wait_seconds * 2**number, LONGEST_WAIT_SECONDS) * random.uniform(0.5, 1.0)
                log.info("%s failed (%s: %s), trying again in %.1f s", what, type(error).__name__, error, wait)
                self.num_retries += 1
                time.sleep(wait)
        return attempt()


def _complete(found: Buffer, name: str, start: int, num_bytes: int | None) -> Buffer:
    if num_bytes is not None and len(found) != num_bytes:
        raise TruncatedFileError(f"{name} has {len(found)} bytes from {start} on, not {num_bytes}")
    return found
