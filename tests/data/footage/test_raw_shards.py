"""Tars of raw clips: unpacked once, and nothing in them gets out of the folder."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from hh_train.data.footage.files import find_footage, read_metadata
from hh_train.data.footage.raw_shards import unpack_shard


def add(tar: tarfile.TarFile, name: str, content: bytes = b"media", **fields: object) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    tar.addfile(info, io.BytesIO(content) if info.isreg() else None)


def shard(path: Path, *keys: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key in keys:
            add(tar, f"{key}.mp4", key.encode())
            add(tar, f"{key}.txt", f"caption of {key}".encode())
            add(tar, f"{key}.cls", b"3")
    return path


def test_samples_with_their_captions(tmp_path: Path) -> None:
    path = shard(tmp_path / "raw" / "00000.tar", "a", "sub/b")
    files = find_footage(path, held_out_share=0.0, unpack_to=tmp_path / "unpacked")
    assert [file.key for file in files] == ["00000_a", "00000_sub_b"]
    assert [file.path.read_bytes() for file in files] == [b"a", b"sub/b"]
    assert [read_metadata(file).prompt.description for file in files] == ["caption of a", "caption of sub/b"]
    assert not list((tmp_path / "unpacked").rglob("*.cls"))


def test_a_folder_of_tars_and_the_splits_in_their_names(tmp_path: Path) -> None:
    for name in ("train-000", "train-001", "val_000", "test/000"):
        shard(tmp_path / "raw" / f"{name}.tar", "a", "b")
    files = find_footage(tmp_path / "raw" / "..", unpack_to=tmp_path / "unpacked")
    assert len({file.key for file in files}) == 8
    files = find_footage(tmp_path / "raw", unpack_to=tmp_path / "again")
    assert [file.split for file in files] == ["train"] * 4 + ["validation"] * 2 + ["test"] * 2


def test_a_tar_without_a_place_to_go(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unpack_to"):
        find_footage(shard(tmp_path / "a.tar", "a"))


def test_a_second_time_nothing_is_unpacked(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", "a")
    (media,) = unpack_shard(path, tmp_path / "out", name="a")
    media.path.write_bytes(b"marked")
    assert unpack_shard(path, tmp_path / "out", name="a")[0].path.read_bytes() == b"marked"
    os.utime(path, ns=(1, 1))  # another tar of the same size
    assert unpack_shard(path, tmp_path / "out", name="a")[0].path.read_bytes() == b"a"


def test_an_interrupted_unpacking_is_done_again(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", "a", "b")
    for media in unpack_shard(path, tmp_path / "out", name="a"):
        media.path.unlink()
    (tmp_path / "out" / "a" / ".unpacked.json").write_text('{"bytes": ')
    assert [media.path.read_bytes() for media in unpack_shard(path, tmp_path / "out", name="a")] == [b"a", b"b"]


def test_members_that_would_climb_out(tmp_path: Path) -> None:
    outside = tmp_path / "outside.mp4"
    outside.write_bytes(b"precious")
    path = tmp_path / "evil.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "../../outside.mp4")
        add(tar, str(outside))
        add(tar, "a/../../../outside.mp4")
        add(tar, "good/one.mp4", b"one")
        add(tar, "link.mp4", b"", type=tarfile.SYMTYPE, linkname=str(outside))
        add(tar, "hard.mp4", b"", type=tarfile.LNKTYPE, linkname="../../outside.mp4")
        add(tar, "good", b"", type=tarfile.SYMTYPE, linkname=str(tmp_path))
        add(tar, "good/two.mp4", b"two")
        add(tar, "device.mp4", b"", type=tarfile.CHRTYPE)
        add(tar, "pipe.mp4", b"", type=tarfile.FIFOTYPE)
        add(tar, "good/one.mp4", b"another one")
        add(tar, "good/one.mp4/inside.mp4", b"below a file")
        add(tar, "n" * 300 + ".mp4", b"long")
        add(tar, "x\\..\\outside.mp4")
        add(tar, ".hidden.mp4")
        add(tar, "last.mp4", b"last")
    found = unpack_shard(path, tmp_path / "out", name="evil")
    kept = {media.path.name: media.path.read_bytes() for media in found if media.problem is None}
    assert kept == {"one.mp4": b"one", "two.mp4": b"two", "last.mp4": b"last"}
    problems = [media.problem for media in found if media.problem]
    assert sum("outside the folder" in problem for problem in problems) == 4
    assert sum("no plain file" in problem for problem in problems) == 4
    assert sum("two members" in problem for problem in problems) == 1
    assert sum("cannot be unpacked" in problem for problem in problems) == 2
    assert outside.read_bytes() == b"precious"
    below = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*") if path.is_file()}
    assert below == {"outside.mp4", "evil.tar", "out"}
    assert not [path for path in tmp_path.rglob("*") if path.is_symlink() or path.name.endswith(".partial")]
    files = find_footage(path, unpack_to=tmp_path / "out2")
    assert len({file.key for file in files}) == len(found)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_cut_tar_gives_its_whole_members(tmp_path: Path, share: float) -> None:
    whole = shard(tmp_path / "whole.tar", *"abcdefgh").read_bytes()
    end = len(whole.rstrip(b"\0"))
    path = tmp_path / "cut.tar"
    path.write_bytes(whole[: int(end * share)])
    found = unpack_shard(path, tmp_path / "out", name="cut")
    good = [media for media in found if media.problem is None]
    assert [media.path.read_bytes().decode() for media in good] == list("abcdefgh")[: len(good)]
    assert len(good) <= 8 * share + 1
    assert found[-1].problem is not None


def test_a_damaged_header_ends_a_tar(tmp_path: Path) -> None:
    content = bytearray(shard(tmp_path / "a.tar", *"abcd").read_bytes())
    content[4 * 1024 : 4 * 1024 + 200] = b"\xff" * 200
    (tmp_path / "a.tar").write_bytes(content)
    found = unpack_shard(tmp_path / "a.tar", tmp_path / "out", name="a")
    assert [media.problem is None for media in found] == [True, True, False]
    assert "a.tar is damaged from byte 4096 on" in str(found[-1].problem)


def test_a_member_that_claims_more_than_there_is(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        info = tarfile.TarInfo("bomb.mp4")
        info.size = 2**40
        tar.fileobj.write(info.tobuf())  # type: ignore[union-attr]
    found = unpack_shard(tmp_path / "a.tar", tmp_path / "out", name="a")
    assert "claims 1099511627776 bytes" in str(found[0].problem)


@pytest.mark.parametrize("content", [b"", b"no tar at all" * 100, bytes(10_240)])
def test_what_is_no_tar(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    found = unpack_shard(tmp_path / "a.tar", tmp_path / "out", name="a")
    assert all(media.problem and "a.tar" in media.problem for media in found)
    assert len(found) == (0 if content.count(0) else 1)
