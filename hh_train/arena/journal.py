"""Records that outlive a kill: one JSON object a line, appended, never rewritten."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Journal:
    """An append-only file of JSON lines. A line that a kill has torn is left where it is, and passed over.

    For one process: what is appended is on the disk when `append` returns.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> tuple[list[dict[str, Any]], int]:
        """The records in the order of writing, and how many lines are none."""
        if not self.path.is_file():
            return [], 0
        rows: list[dict[str, Any]] = []
        num_damaged = 0
        for line in self.path.read_bytes().split(b"\n"):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict):
                rows.append(row)
            else:
                num_damaged += 1
        return rows, num_damaged

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a record, and waits until the disk has it.

        Raises:
            OSError: it could not be written whole; what there is of it is passed over by `read`.
        """
        line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        is_new = not self.path.exists()
        if is_new:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(file).st_size
            if size and os.pread(file, 1, size - 1) != b"\n":  # a torn line before
                line = b"\n" + line
            if os.write(file, line) != len(line):
                raise OSError(f"{self.path} could not be written whole: is the disk full?")
            os.fsync(file)
        finally:
            os.close(file)
        if is_new:
            _sync_folder(self.path.parent)


def _sync_folder(folder: Path) -> None:
    """A new file is safe when its name is, too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
