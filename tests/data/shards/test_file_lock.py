"""Locks between real processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from hh_train.data.shards.file_lock import FileLock


def _hold(path: Path, shared: bool, connection: Connection) -> None:
    lock = FileLock(path)
    connection.send(lock.acquire(shared=shared, wait=False))
    connection.recv()
    lock.release()
    connection.send("released")
    connection.recv()
    os._exit(0)


class Holder:
    """Another process that holds a lock."""

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        context = multiprocessing.get_context("fork")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_hold, args=(path, shared, theirs), daemon=True)
        self.process.start()
        self.has_it = self.connection.recv()

    def release(self) -> None:
        self.connection.send("release")
        self.connection.recv()

    def kill(self) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    holder = Holder(tmp_path / "lock")
    assert holder.has_it
    lock = FileLock(tmp_path / "lock")
    assert not lock.acquire(wait=False)
    assert not lock.acquire(shared=True, wait=False)
    holder.release()
    assert lock.acquire(wait=False)
    assert not Holder(tmp_path / "lock").has_it
    lock.release()
    assert Holder(tmp_path / "lock").has_it


def test_a_dead_process_holds_nothing(tmp_path: Path) -> None:
    holder = Holder(tmp_path / "lock")
    holder.kill()
    assert FileLock(tmp_path / "lock").acquire(wait=False)


def test_shared_locks_go_together_and_not_with_an_exclusive_one(tmp_path: Path) -> None:
    first, second = (Holder(tmp_path / "lock", shared=True) for _ in range(2))
    assert first.has_it
    assert second.has_it
    lock = FileLock(tmp_path / "lock")
    assert lock.acquire(shared=True, wait=False)
    assert not lock.acquire(wait=False)
    first.release()
    second.release()
    assert lock.acquire(wait=False)


def test_a_block_holds_the_lock_to_its_end(tmp_path: Path) -> None:
    with FileLock(tmp_path / "lock"):
        assert not Holder(tmp_path / "lock").has_it
    assert Holder(tmp_path / "lock").has_it


def test_a_file_system_without_locks_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("hh_train.data.shards.file_lock.fcntl.lockf", unsupported)
    assert FileLock(tmp_path / "lock").acquire(wait=False)
