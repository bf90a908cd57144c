"""Locks between processes, on one machine or on several that share a file system."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from types import TracebackType

UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
HELD = (errno.EACCES, errno.EAGAIN)


class FileLock:
    """A lock on a file, which need not exist. A process that dies gives its locks back.

    Between two locks of one process there is no conflict. On a file system that knows no locks nothing is locked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def acquire(self, *, shared: bool = False, wait: bool = True) -> bool:
        """Takes the lock, or changes between shared and exclusive. False: others hold it, and `wait` is off."""
        if self._file is None:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            fcntl.lockf(self._file, kind if wait else kind | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in HELD:
                return False
            if error.errno not in UNSUPPORTED:
                raise
        return True

    def release(self) -> None:
        """Gives the lock back, where it is held."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __del__(self) -> None:
        self.release()

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
