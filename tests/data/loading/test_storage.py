"""Bytes from disk, from a web server that fails on order, and from S3."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import pytest

from hh_train.data.loading import storage as storage_module
from hh_train.data.loading.storage import Storage, TruncatedFileError

CONTENT = bytes(range(256)) * 400


def quick(root: object, **arguments: Any) -> Storage:
    return Storage(str(root), **{"first_wait_seconds": 0.001, **arguments})


def check_reads(storage: Storage) -> None:
    assert storage.read("a.bin") == CONTENT
    assert storage.read("a.bin", start=300, num_bytes=1000) == CONTENT[300:1300]
    assert storage.read("a.bin", start=0, num_bytes=10) == CONTENT[:10]
    assert storage.read("a.bin", start=len(CONTENT) - 5, num_bytes=5) == CONTENT[-5:]
    with pytest.raises(FileNotFoundError):
        storage.read("none.bin")
    with pytest.raises(FileNotFoundError):
        storage.read("none.bin", start=3, num_bytes=5)


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_folder_is_read(tmp_path: Path, prefix: str) -> None:
    (tmp_path / "a.bin").write_bytes(CONTENT)
    (tmp_path / "below").mkdir()
    storage = quick(f"{prefix}{tmp_path}/")
    assert storage.is_local
    check_reads(storage)
    assert storage.sizes() == {"a.bin": len(CONTENT)}
    assert storage.num_retries == 0
    with pytest.raises(TruncatedFileError, match="has 5 bytes"):
        storage.read("a.bin", start=len(CONTENT) - 5, num_bytes=6)


def test_the_web_is_read_in_ranges(web_folder: Any) -> None:
    (web_folder.folder / "a.bin").write_bytes(CONTENT)
    storage = quick(web_folder.url)
    assert not storage.is_local
    check_reads(storage)
    assert ("/a.bin", "bytes=300-1299") in web_folder.requests
    assert storage.num_retries == 0
    assert storage.sizes() is None  # it lists no files


def test_a_server_without_ranges_is_read_all_the_same(web_folder: Any) -> None:
    (web_folder.folder / "a.bin").write_bytes(CONTENT)
    web_folder.knows_ranges = False
    check_reads(quick(web_folder.url))


@pytest.mark.parametrize("failures", [[503], [500, 503, 429], ["cut"], ["cut", 502]])
def test_failures_that_pass_are_tried_again(web_folder: Any, failures: list[int | str]) -> None:
    (web_folder.folder / "a.bin").write_bytes(CONTENT)
    storage = quick(web_folder.url)
    web_folder.failures.extend(failures)
    assert storage.read("a.bin", start=300, num_bytes=1000) == CONTENT[300:1300]
    assert storage.num_retries == len(failures)


def test_failures_that_last_are_raised(web_folder: Any) -> None:
    (web_folder.folder / "a.bin").write_bytes(CONTENT)
    web_folder.failures.extend([503] * 9)
    storage = quick(web_folder.url, retries=2)
    with pytest.raises(Exception, match="503"):
        storage.read("a.bin")
    assert storage.num_retries == 2
    assert len(web_folder.failures) == 6


def test_a_file_that_is_not_there_is_asked_for_once(web_folder: Any) -> None:
    storage = quick(web_folder.url)
    with pytest.raises(FileNotFoundError):
        storage.read("none.bin", start=0, num_bytes=5)
    assert len(web_folder.requests) == 1


@pytest.mark.parametrize("start", [len(CONTENT) - 5, len(CONTENT) + 5])
def test_a_short_file_on_the_web_is_truncated(web_folder: Any, start: int) -> None:
    (web_folder.folder / "a.bin").write_bytes(CONTENT)
    with pytest.raises(TruncatedFileError):
        quick(web_folder.url, retries=1).read("a.bin", start=start, num_bytes=10)


def test_waits_double_up_to_a_bound_and_vary(web_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(storage_module.time, "sleep", waits.append)
    web_folder.failures.extend([503] * 9)
    (web_folder.folder / "a.bin").write_bytes(CONTENT)
    Storage(web_folder.url, first_wait_seconds=1.0, retries=9).read("a.bin")
    for number, wait in enumerate(waits):
        longest = min(2**number, storage_module.LONGEST_WAIT_SECONDS)
        assert longest / 2 <= wait <= longest
    assert len(waits) == 9


def test_a_download_comes_in_pieces_that_are_tried_again(
    web_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (web_folder.folder / "a.bin").write_bytes(CONTENT)
    monkeypatch.setattr(storage_module, "CHUNK_BYTES", 30_000)
    web_folder.failures.extend(["cut", 503])
    quick(web_folder.url).download("a.bin", tmp_path / "copy", num_bytes=len(CONTENT))
    assert (tmp_path / "copy").read_bytes() == CONTENT
    assert len({ranges for _, ranges in web_folder.requests}) == 4


def read_in_child(storage: Storage, results: Any) -> None:
    results.put(storage.read("a.bin", start=5, num_bytes=5))


def test_other_processes_read_too(web_folder: Any) -> None:
    (web_folder.folder / "a.bin").write_bytes(CONTENT)
    storage = quick(web_folder.url)
    storage.read("a.bin")
    assert pickle.loads(pickle.dumps(storage)).read("a.bin") == CONTENT
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=read_in_child, args=(storage, results))
    child.start()
    assert results.get(timeout=60) == CONTENT[5:10]
    child.join(60)


def test_an_unknown_kind_of_url_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot read carrier-pigeon://coop"):
        Storage("carrier-pigeon://coop")


def test_s3_is_read_in_ranges(s3_endpoint: str) -> None:
    import s3fs

    options = {"endpoint_url": s3_endpoint, "key": "testing", "secret": "testing"}
    system = s3fs.S3FileSystem(**options)
    system.mkdir("shards")
    system.pipe_file("shards/folder/a.bin", CONTENT)
    storage = quick("s3://shards/folder", options=options)
    check_reads(storage)
    assert storage.sizes() == {"a.bin": len(CONTENT)}
    for start in (len(CONTENT) - 5, len(CONTENT) + 5):
        with pytest.raises(TruncatedFileError):
            quick("s3://shards/folder", options=options, retries=1).read("a.bin", start=start, num_bytes=10)
