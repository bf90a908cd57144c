"""What became of the footage: clips kept by bucket, clips left out by stage and reason."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any

from rich.table import Table

from hh_train.data.footage.files import SPLITS, DroppedClip

STAGES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "length": ("is too short",),
        "buckets": ("fits no bucket", "is too small"),
        "duplicates": ("is a duplicate",),
        "caption": ("no caption", "the caption", "the .txt", "the .json", "malformed fields", "what lies beside"),
        "filters": ("is black", "is frozen", "is silent", "is clipped", "is out of sync"),
        "encode": ("its video latents", "its audio latents", "its text latents", "the prompt"),
    }
)
"""Where clips get lost, by how the reasons begin. Others are told by reading."""
READING = "reading"
_ROW = re.compile(r"^row \d+ of the table: ")
_BRACKETS = re.compile(r"\s*\([^)]*\)")
_SECONDS_A_HOUR, _SECONDS_A_MINUTE = 3600, 60


def kind_of(reason: str) -> str:
    """The part of a reason that clips have in common: what stands before the colon, without what is in brackets."""
    return _BRACKETS.sub("", _ROW.sub("", reason).split(":", maxsplit=1)[0]).strip()


def stage_of(reason: str) -> str:
    """Where a clip with this reason was lost."""
    told = _ROW.sub("", reason)
    return next((stage for stage, starts in STAGES.items() if told.startswith(starts)), READING)


@dataclass(frozen=True, kw_only=True)
class KeptClip:
    """A clip that became one, or will."""

    split: str
    height: int
    width: int
    num_frames: int
    frames_per_second: float


@dataclass(frozen=True, kw_only=True)
class BucketCount:
    """The clips of one size and length."""

    height: int
    width: int
    num_frames: int
    clips: Mapping[str, int]
    """By split."""
    seconds: float


@dataclass(frozen=True, kw_only=True)
class DropCount:
    """The clips that were left out for one kind of reason."""

    stage: str
    kind: str
    clips: int
    example: str
    """Key of one of them."""
    example_reason: str


@dataclass(frozen=True, kw_only=True)
class Accounting:
    """The whole table. `to_json` gives what the manifest holds."""

    files: int
    footage_seconds: float | None
    """Length of all films; None when they were not looked at."""
    buckets: tuple[BucketCount, ...]
    dropped: tuple[DropCount, ...]
    outside_seconds: float | None = None
    """Of the films, what no clip was to be taken from: shots that are too short, and what is over."""
    notes: Mapping[str, int] = field(default_factory=dict)
    """Clips that something was done to, by what it was."""

    @classmethod
    def of(
        cls,
        kept: Iterable[KeptClip],
        dropped: Iterable[DroppedClip],
        *,
        files: int,
        footage_seconds: float | None = None,
        outside_seconds: float | None = None,
        notes: Mapping[str, int] | None = None,
    ) -> Accounting:
        """Counts clips. Buckets come in the order of their number of clips, reasons likewise within a stage."""
        return cls(
            files=files,
            footage_seconds=footage_seconds,
            outside_seconds=outside_seconds,
            buckets=_count_buckets(kept),
            dropped=_count_dropped(dropped),
            notes={name: count for name, count in sorted((notes or {}).items()) if count},
        )

    @property
    def num_kept(self) -> int:
        return sum(sum(bucket.clips.values()) for bucket in self.buckets)

    @property
    def num_dropped(self) -> int:
        return sum(count.clips for count in self.dropped)

    @property
    def seconds(self) -> float:
        """Length of the clips that are kept."""
        return sum((bucket.seconds for bucket in self.buckets), 0.0)

    def to_json(self) -> dict[str, Any]:
        """Plain values, the totals among them."""
        return {"clips": self.num_kept, "left_out": self.num_dropped, "seconds": self.seconds, **asdict(self)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Accounting:
        """Reads what `to_json` writes."""
        return cls(
            files=fields["files"],
            footage_seconds=fields["footage_seconds"],
            outside_seconds=fields.get("outside_seconds"),
            buckets=tuple(BucketCount(**bucket) for bucket in fields["buckets"]),
            dropped=tuple(DropCount(**count) for count in fields["dropped"]),
            notes=fields["notes"],
        )

    def tables(self, *, max_buckets: int = 30) -> list[Table]:
        """For the console: clips by bucket (the largest `max_buckets`), and clips left out by stage and reason."""
        tables = [self._bucket_table(max_buckets)]
        if self.dropped:
            tables.append(self._drop_table())
        return tables

    def headline(self) -> str:
        """One line: files, clips and their length."""
        share = f" of {duration(self.footage_seconds)} of footage" if self.footage_seconds else ""
        share += f" ({duration(self.outside_seconds)} of it in no clip)" if share and self.outside_seconds else ""
        return (
            f"{self.files} files: {self.num_kept} clips of {duration(self.seconds)} together{share}, "
            f"{self.num_dropped} left out"
        )

    def _bucket_table(self, max_buckets: int) -> Table:
        table = Table(title="Clips by size and length", title_justify="left")
        for name in ("height x width", "frames", *SPLITS, "length"):
            table.add_column(name, justify="left" if name == "height x width" else "right")
        for bucket in self.buckets[:max_buckets]:
            _add_row(table, f"{bucket.height} x {bucket.width}", str(bucket.num_frames), [bucket])
        rest = self.buckets[max_buckets:]
        if rest:
            _add_row(table, f"{len(rest)} others", "", rest)
        if len(self.buckets) != 1:
            table.add_section()
            _add_row(table, "all", "", self.buckets)
        return table

    def _drop_table(self) -> Table:
        table = Table(title="Clips left out", title_justify="left")
        for name in ("at", "reason", "clips", "such as"):
            table.add_column(name, justify="right" if name == "clips" else "left", overflow="fold")
        for count in self.dropped:
            table.add_row(count.stage, count.kind, str(count.clips), f"{count.example}: {count.example_reason}")
        table.add_section()
        table.add_row("all", "", str(self.num_dropped), "")
        return table


def duration(seconds: float) -> str:
    """Seconds as one would say them: 4.1 s, 12.5 min, 3.2 h."""
    if seconds < 2 * _SECONDS_A_MINUTE:
        return f"{seconds:.1f} s"
    if seconds < 2 * _SECONDS_A_HOUR:
        return f"{seconds / _SECONDS_A_MINUTE:.1f} min"
    return f"{seconds / _SECONDS_A_HOUR:.1f} h"


def _add_row(table: Table, name: str, frames: str, buckets: Sequence[BucketCount]) -> None:
    counts = [str(sum(bucket.clips.get(split, 0) for bucket in buckets)) for split in SPLITS]
    table.add_row(name, frames, *counts, duration(sum((bucket.seconds for bucket in buckets), 0.0)))


def _count_buckets(kept: Iterable[KeptClip]) -> tuple[BucketCount, ...]:
    clips: dict[tuple[int, int, int], Counter[str]] = {}
    seconds: Counter[tuple[int, int, int]] = Counter()
    for clip in kept:
        shape = (clip.height, clip.width, clip.num_frames)
        clips.setdefault(shape, Counter())[clip.split] += 1
        seconds[shape] += clip.num_frames / clip.frames_per_second  # type: ignore[assignment]
    order = sorted(clips, key=lambda shape: (-clips[shape].total(), shape))
    return tuple(
        BucketCount(
            height=shape[0],
            width=shape[1],
            num_frames=shape[2],
            clips={split: clips[shape][split] for split in SPLITS if clips[shape][split]},
            seconds=seconds[shape],
        )
        for shape in order
    )


def _count_dropped(dropped: Iterable[DroppedClip]) -> tuple[DropCount, ...]:
    by_kind: dict[tuple[str, str], list[DroppedClip]] = {}
    for clip in dropped:
        by_kind.setdefault((stage_of(clip.reason), kind_of(clip.reason)), []).append(clip)
    stages = (READING, *STAGES)
    order = sorted(by_kind, key=lambda key: (stages.index(key[0]), -len(by_kind[key]), key[1]))
    return tuple(
        DropCount(
            stage=stage,
            kind=kind,
            clips=len(by_kind[stage, kind]),
            example=by_kind[stage, kind][0].key,
            example_reason=by_kind[stage, kind][0].reason,
        )
        for stage, kind in order
    )
