"""The counts add up, reasons of one kind stand together, and the table says so."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from rich.console import Console

from hh_train.data.footage.files import DroppedClip
from hh_train.data.selection.accounting import Accounting, KeptClip, duration, kind_of, stage_of


def kept(split: str = "train", height: int = 64, width: int = 64, num_frames: int = 25) -> KeptClip:
    return KeptClip(split=split, height=height, width=width, num_frames=num_frames, frames_per_second=25.0)


def dropped(key: str, reason: str) -> DroppedClip:
    return DroppedClip(key=key, split="train", reason=reason)


@pytest.fixture
def accounting() -> Accounting:
    return Accounting.of(
        [kept(), kept(), kept("validation"), kept(width=96, num_frames=50)],
        [
            dropped("a", "is too short: 4 frames at 25 a second, wanted 5 at the least"),
            dropped("b", "cannot be read as media: Invalid data"),
            dropped("c", "is too short: 2 frames at 25 a second, wanted 5 at the least"),
            dropped("d", "is black: 97% of the frames"),
        ],
        files=9,
        footage_seconds=20.0,
        notes={"something": 2, "nothing": 0},
    )


def test_clips_are_counted_by_bucket_and_split(accounting: Accounting) -> None:
    first, second = accounting.buckets
    assert (first.height, first.width, first.num_frames, first.clips) == (64, 64, 25, {"train": 2, "validation": 1})
    assert (first.seconds, second.seconds) == (3.0, 2.0)
    assert (accounting.num_kept, accounting.num_dropped, accounting.seconds) == (4, 4, 5.0)


def test_reasons_of_a_kind_stand_together_in_the_order_of_the_stages(accounting: Accounting) -> None:
    told = [(count.stage, count.kind, count.clips, count.example) for count in accounting.dropped]
    assert told == [
        ("reading", "cannot be read as media", 1, "b"),
        ("length", "is too short", 2, "a"),
        ("filters", "is black", 1, "d"),
    ]


def test_notes_of_nothing_are_left_out(accounting: Accounting) -> None:
    assert accounting.notes == {"something": 2}


def test_it_survives_json(accounting: Accounting) -> None:
    fields = json.loads(json.dumps(accounting.to_json()))
    assert (fields["clips"], fields["left_out"]) == (4, 4)
    assert Accounting.from_json(fields) == accounting


def test_the_tables_hold_every_count(accounting: Accounting) -> None:
    console = Console(width=160, record=True, quiet=False, file=None)
    with console.capture() as capture:
        for table in accounting.tables():
            console.print(table)
        console.print(accounting.headline())
    text = capture.get()
    for part in ("64 x 64", "64 x 96", "is too short", "is black: 97%", "reading"):
        assert part in text
    assert "9 files: 4 clips of 5.0 s together of 20.0 s of footage, 4 left out" in text


def test_many_buckets_are_summed_up() -> None:
    many = Accounting.of([kept(width=16 * i) for i in range(1, 41)], [], files=40)
    console = Console(width=160)
    with console.capture() as capture:
        for table in many.tables(max_buckets=5):
            console.print(table)
    assert "35 others" in capture.get()
    assert len(many.tables()) == 1


def test_footage_in_no_clip_is_told(accounting: Accounting) -> None:
    told = replace(accounting, outside_seconds=3.0)
    assert "of 20.0 s of footage (3.0 s of it in no clip), 4 left out" in told.headline()
    assert Accounting.from_json(told.to_json()) == told


def test_nothing_at_all_is_a_table_too() -> None:
    empty = Accounting.of([], [], files=0)
    assert empty.headline() == "0 files: 0 clips of 0.0 s together, 0 left out"
    assert len(empty.tables()) == 1


@pytest.mark.parametrize(
    ("reason", "stage"),
    [
        ("fits no bucket: 1x2 would lose", "buckets"),
        ("is a duplicate: of x", "duplicates"),
        ("no caption: wanted a .txt", "caption"),
        ("is out of sync: the sound", "filters"),
        ("has no picture: wanted", "reading"),
    ],
)
def test_reasons_name_their_stage(reason: str, stage: str) -> None:
    assert stage_of(reason) == stage
    assert kind_of(reason) == reason.split(":", maxsplit=1)[0]


def test_rows_and_places_do_not_make_a_kind_of_their_own() -> None:
    assert kind_of("row 12 of the table: no caption: wanted text") == "no caption"
    assert stage_of("row 12 of the table: no caption: wanted text") == "caption"
    assert kind_of("the .txt is not UTF-8 (at byte 14): save it as UTF-8") == "the .txt is not UTF-8"


@pytest.mark.parametrize(("seconds", "text"), [(3.14, "3.1 s"), (600.0, "10.0 min"), (9000.0, "2.5 h")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
