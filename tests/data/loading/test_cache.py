"""Copies on disk: one download however many ask, never more than the bound."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hh_train.data.loading.cache import DiskCache
from hh_train.data.loading.storage import Storage

SIZE = 1000


@pytest.fixture
def files(web_folder: Any) -> Any:
    for number in range(6):
        (web_folder.folder / f"{number}.tar").write_bytes(bytes([number]) * SIZE)
    return web_folder


def cache(folder: Path, *, num_files: float = 3, version: str = "1") -> DiskCache:
    return DiskCache(folder / "cache", max_bytes=int(num_files * SIZE), version=version)


def get(copies: DiskCache, web: Any, number: int) -> Path | None:
    return copies.path(Storage(web.url, first_wait_seconds=0.001), f"{number}.tar", num_bytes=SIZE)


def used(copies: DiskCache, web: Any, *numbers: int) -> None:
    """Asks for files, one long after the other."""
    for order, number in enumerate(numbers):
        path = get(copies, web, number)
        assert path is not None and path.read_bytes() == bytes([number]) * SIZE
        os.utime(path, (order, order))


def test_a_copy_is_downloaded_once(files: Any, tmp_path: Path) -> None:
    copies = cache(tmp_path)
    used(copies, files, 1, 1, 1)
    used(cache(tmp_path), files, 1)
    assert len(files.requests) == 1


def test_another_version_is_another_file(files: Any, tmp_path: Path) -> None:
    used(cache(tmp_path), files, 1)
    (files.folder / "1.tar").write_bytes(b"x" * SIZE)
    path = get(cache(tmp_path, version="2"), files, 1)
    assert path is not None and path.read_bytes() == b"x" * SIZE


def test_the_files_used_longest_ago_make_way(files: Any, tmp_path: Path) -> None:
    copies = cache(tmp_path)
    used(copies, files, 0, 1, 2, 0)
    used(copies, files, 3)
    assert copies.num_bytes == 3 * SIZE
    files.requests.clear()
    used(copies, files, 0, 2, 3)
    assert not files.requests  # 1 has made way


def test_what_does_not_fit_is_not_copied(files: Any, tmp_path: Path) -> None:
    copies = cache(tmp_path, num_files=0.5)
    assert get(copies, files, 0) is None
    assert copies.num_bytes == 0 and not files.requests


def test_many_who_ask_share_one_download_and_the_bound_holds(files: Any, tmp_path: Path) -> None:
    largest = 0
    is_done = threading.Event()

    def watch() -> None:
        nonlocal largest
        while not is_done.wait(0.0005):
            largest = max(largest, copies.num_bytes)

    copies = cache(tmp_path)
    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(8) as pool:
        same = list(pool.map(lambda _: get(cache(tmp_path), files, 5), range(8)))
        assert len(set(same)) == 1 and None not in same
        assert len(files.requests) == 1
        mixed = list(pool.map(lambda i: get(cache(tmp_path), files, i % 6), range(60)))
    is_done.set()
    watcher.join()
    assert len(set(mixed)) > 3
    assert 0 < largest <= 3 * SIZE


def test_a_failed_download_leaves_nothing(files: Any, tmp_path: Path) -> None:
    copies = cache(tmp_path)
    with pytest.raises(FileNotFoundError):
        get(copies, files, 9)
    assert copies.num_bytes == 0
    used(copies, files, 1)


def test_what_a_killed_download_left_makes_way(files: Any, tmp_path: Path) -> None:
    copies = cache(tmp_path)
    used(copies, files, 1)
    copy = get(copies, files, 1)
    assert copy is not None
    copy.rename(copy.with_name(copy.name + ".partial"))
    assert copies.num_bytes == SIZE
    used(copies, files, 2, 3, 4)
    assert copies.num_bytes == 3 * SIZE
    used(copies, files, 1)
