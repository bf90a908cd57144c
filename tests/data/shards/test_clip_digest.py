"""Digests of clips: what they depend on, and how little of a large file they read."""

from __future__ import annotations

from pathlib import Path

import pytest

from hh_train.data.shards.clip_digest import MAX_PIECES, PIECE_BYTES, clip_digest, piece_starts


def test_contents_count_and_names_do_not(tmp_path: Path) -> None:
    for name, text in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / name).write_text(text)
    a, b, c, absent = (clip_digest([tmp_path / name]) for name in ("a", "b", "c", "absent"))
    assert a == b
    assert len({a, c, absent}) == 3


def test_the_order_the_bounds_and_the_facts_count(tmp_path: Path) -> None:
    for name, text in (("a", "one"), ("b", "two"), ("c", "onetwo"), ("d", "")):
        (tmp_path / name).write_text(text)
    lists = (["a", "b"], ["b", "a"], ["c", "d"], ["d", "c"], ["c"], ["a", "b", "absent"])
    digests = [clip_digest([tmp_path / name for name in names]) for names in lists]
    digests += [clip_digest([tmp_path / "a", tmp_path / "b"], fact) for fact in (0.5, "0.5", (0, 5))]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("place", [0, PIECE_BYTES + 5, MAX_PIECES * PIECE_BYTES - 1])
def test_every_byte_of_a_small_file_counts(tmp_path: Path, place: int) -> None:
    contents = bytearray(MAX_PIECES * PIECE_BYTES)
    (tmp_path / "clip").write_bytes(contents)
    before = clip_digest([tmp_path / "clip"])
    contents[place] = 1
    (tmp_path / "clip").write_bytes(contents)
    assert clip_digest([tmp_path / "clip"]) != before


def test_head_and_tail_and_size_of_a_large_file_count(tmp_path: Path) -> None:
    contents = bytearray(40 * PIECE_BYTES)
    (tmp_path / "clip").write_bytes(contents)
    digests = {clip_digest([tmp_path / "clip"])}
    for place in (0, len(contents) - 1):
        changed = contents.copy()
        changed[place] = 1
        (tmp_path / "clip").write_bytes(changed)
        digests.add(clip_digest([tmp_path / "clip"]))
    (tmp_path / "clip").write_bytes(contents + b"\0")
    digests.add(clip_digest([tmp_path / "clip"]))
    assert len(digests) == 4


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, 3 * PIECE_BYTES + 1, 10**7, 10**12 + 1])
def test_pieces_lie_in_the_file_and_reach_its_ends(size: int) -> None:
    starts = piece_starts(size)
    assert len(starts) <= MAX_PIECES
    assert starts == sorted(set(starts))
    if size:
        assert starts[0] == 0
        assert starts[-1] < size <= starts[-1] + PIECE_BYTES
