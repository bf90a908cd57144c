"""From files to the clips they will give, before any of them is encoded: cuts, windows, buckets, duplicates."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from hh_train.data.footage.files import SPLITS, DroppedClip, FootageFile, hash_order
from hh_train.data.media.files import MediaReader
from hh_train.data.selection.buckets import Size
from hh_train.data.selection.clip_reading import in_parallel
from hh_train.data.selection.cuts import CutDetector, Shot
from hh_train.data.selection.duplicates import DuplicateSearch, Fingerprint, fingerprint
from hh_train.data.selection.windows import (
    PART_SECONDS,
    ClipWindow,
    WindowLengths,
    WindowPlan,
    count_frames,
    shots_within,
    window_key,
)

_FINGERPRINT_SIZE = (64, 64)
_SURVEY_VERSION = 2


@dataclass(frozen=True, kw_only=True)
class FileSurvey:
    """What one file will give."""

    windows: tuple[ClipWindow, ...] = ()
    dropped: tuple[DroppedClip, ...] = ()
    seconds: float | None = None
    """Length of the film; None when it was not looked at, or is none."""
    outside_seconds: float = 0.0
    """Of these, what lies in no window."""
    prints: tuple[Fingerprint | None, ...] = ()
    """Of each window, when duplicates are searched for; None for one that cannot be read."""

    def to_json(self) -> dict[str, Any]:
        """The survey without the file itself."""
        windows = [{name: value for name, value in asdict(w).items() if name != "file"} for w in self.windows]
        return {**asdict(self), "windows": windows}

    @classmethod
    def from_json(cls, fields: dict[str, Any], file: FootageFile) -> FileSurvey:
        windows = (
            ClipWindow(
                **{
                    **window,
                    "file": file,
                    "size": tuple(window["size"]),
                    "shots": tuple(Shot(**shot) for shot in window["shots"]),
                }
            )
            for window in fields["windows"]
        )
        return cls(
            windows=tuple(windows),
            dropped=tuple(DroppedClip(**clip) for clip in fields["dropped"]),
            seconds=fields["seconds"],
            outside_seconds=fields["outside_seconds"],
            prints=tuple(print_ and Fingerprint.from_json(print_) for print_ in fields["prints"]),
        )


@dataclass(frozen=True, kw_only=True)
class Surveyor:
    """Looks through files. With neither cuts, plan nor choice of buckets, each file is one window from its start, as
    long as there is, and no file is opened.
    """

    reader: MediaReader
    lengths: WindowLengths
    cuts: CutDetector | None = None
    plan: WindowPlan | None = None
    duplicates: DuplicateSearch | None = None

    def settings(self) -> dict[str, Any]:
        """All that the windows depend on, as plain JSON values; parts that are not used are None."""
        parts = {"cuts": self.cuts, "windows": self.plan, "duplicates": self.duplicates}
        return {name: None if part is None else part.settings() for name, part in parts.items()}

    @property
    def opens_files(self) -> bool:
        return bool(self._looks_inside or self.duplicates)

    @property
    def _looks_inside(self) -> bool:
        buckets = self.lengths.buckets
        is_choice = len(buckets.sizes) > 1 or buckets.frames or buckets.max_crop < 1 or buckets.max_enlargement
        return bool(self.cuts or self.plan or is_choice)

    def survey(self, file: FootageFile) -> FileSurvey:
        """What the file will give. Never raises on bad input."""
        if not self._looks_inside:
            window = ClipWindow(
                file=file,
                key=file.key,
                start_seconds=0.0,
                num_frames=self.lengths.most,
                size=self.lengths.buckets.sizes[0],
            )
            return self._with_prints(FileSurvey(windows=(window,)))
        try:
            if file.problem is not None:
                raise ValueError(file.problem)
            info = self.reader.probe(file.path)
            size = self.lengths.buckets.size_for(info.height, info.width)
            if info.is_image:
                return self._with_prints(_image(file, size, self.lengths))
            shots = (
                (Shot(start_seconds=0.0, end_seconds=info.seconds),)
                if self.cuts is None
                else self.cuts.shots(file.path)
            )
        except (ValueError, OSError) as error:
            return FileSurvey(dropped=(DroppedClip(key=file.key, split=file.split, reason=str(error)),))
        return self._with_prints(self._windows(file, size, shots))

    def _windows(self, file: FootageFile, size: Size, shots: Sequence[Shot]) -> FileSurvey:
        plan = self.plan or WindowPlan()
        is_split = self.cuts is not None or self.plan is not None
        rate = self.reader.frames_per_second
        seconds = shots[-1].end_seconds
        windows, dropped = [], []
        for group in plan.groups(shots):
            start = group[0].start_seconds
            available = count_frames(group[-1].end_seconds - start, rate)
            length = self.lengths.fitting(available)
            if length is None:
                where = " between cuts" if len(shots) > 1 else ""
                reason = (
                    f"is too short: {available} frames at {rate:g} a second{where}, "
                    f"wanted {self.lengths.least} at the least"
                )
                key = window_key(file.key, start) if is_split else file.key
                dropped.append(DroppedClip(key=key, split=file.split, reason=reason))
                continue
            for offset in plan.offsets(available, length):
                first = start + offset / rate
                windows.append(
                    ClipWindow(
                        file=file,
                        key=window_key(file.key, first) if is_split else file.key,
                        start_seconds=first,
                        num_frames=length,
                        size=size,
                        shots=() if self.cuts is None else shots_within(group, first, first + length / rate),
                        is_part=length / rate < seconds - PART_SECONDS,
                    )
                )
        return FileSurvey(
            windows=tuple(windows),
            dropped=tuple(dropped),
            seconds=seconds,
            outside_seconds=outside_windows(windows, seconds, rate),
        )

    def _with_prints(self, survey: FileSurvey) -> FileSurvey:
        if self.duplicates is None:
            return survey
        return replace(survey, prints=tuple(map(self._print, survey.windows)))

    def _print(self, window: ClipWindow) -> Fingerprint | None:
        try:
            clip = self.reader.read(
                window.file.path,
                start_seconds=window.start_seconds,
                max_frames=window.num_frames,
                size=_FINGERPRINT_SIZE,
            )
        except (ValueError, OSError):
            return None  # it is told when the clip is read
        return fingerprint(clip)


def _image(file: FootageFile, size: Size, lengths: WindowLengths) -> FileSurvey:
    if lengths.buckets.frames and 1 not in lengths.buckets.frames:
        reason = "fits no bucket: is a single picture, and no bucket has the length 1"
        return FileSurvey(dropped=(DroppedClip(key=file.key, split=file.split, reason=reason),))
    return FileSurvey(windows=(ClipWindow(file=file, key=file.key, start_seconds=0.0, num_frames=1, size=size),))


@dataclass(frozen=True, kw_only=True)
class FootageSurvey:
    """What all files will give."""

    windows: tuple[ClipWindow, ...]
    dropped: tuple[DroppedClip, ...]
    """Those that are lost before anything is read for training."""
    seconds: float | None
    """Length of all films together; None when they were not looked at."""
    outside_seconds: float | None
    """Of these, what lies in no window."""

    def split(self, name: str) -> tuple[list[DroppedClip], list[ClipWindow]]:
        """The lost clips of a split, and its windows, mixed so that every shard holds a bit of everything."""
        return (
            [clip for clip in self.dropped if clip.split == name],
            sorted((window for window in self.windows if window.split == name), key=lambda w: hash_order(w.key)),
        )


def survey_footage(
    files: Sequence[FootageFile],
    surveyor: Surveyor,
    *,
    cache: Path | None = None,
    num_workers: int | None = None,
) -> Iterator[FileSurvey]:
    """The surveys of files in their order, `num_workers` at a time.

    Args:
        cache: a folder that keeps what was found, so that a second look at unchanged files costs nothing.
    """
    if not surveyor.opens_files:
        return map(surveyor.survey, files)
    return in_parallel(partial(_survey_once, surveyor=surveyor, cache=cache), files, num_workers=num_workers)


def _survey_once(file: FootageFile, *, surveyor: Surveyor, cache: Path | None) -> FileSurvey:
    if cache is None:
        return surveyor.survey(file)
    path = cache / f"{_identity(file, surveyor)}.json"
    if path.is_file():
        return FileSurvey.from_json(json.loads(path.read_text(encoding="utf-8")), file)
    found = surveyor.survey(file)
    partial_path = cache / f".{path.name}.{os.getpid()}"  # other processes may be writing the very same
    with suppress(FileNotFoundError):  # one that has finished takes the cache away
        cache.mkdir(parents=True, exist_ok=True)
        partial_path.write_text(json.dumps(found.to_json()), encoding="utf-8")
        partial_path.replace(path)
    return found


def _identity(file: FootageFile, surveyor: Surveyor) -> str:
    """Changes with the file and with the settings."""
    try:
        status = file.path.stat()
        state = [status.st_size, status.st_mtime_ns]
    except OSError:
        state = []
    lengths = asdict(surveyor.lengths)
    parts = [
        _SURVEY_VERSION,
        str(file.path),
        file.key,
        file.split,
        state,
        lengths,
        surveyor.settings(),
        repr(surveyor.reader),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def gather(
    surveys: Iterable[FileSurvey],
    duplicates: DuplicateSearch | None = None,
    *,
    is_usable: Callable[[FootageFile], bool] = lambda _: True,
) -> FootageSurvey:
    """All windows together, without the copies of others. Of two copies the one that is held out stays.

    Args:
        surveys: of all files, in their order.
        duplicates: which clips count as copies; None keeps all.
        is_usable: whether a file may be the one that stays. Those that may not are no copies either: they have a
            reason of their own, which is told when they are read.

    Raises:
        ValueError: two windows would get the same key.
    """
    windows: list[ClipWindow] = []
    prints: list[Fingerprint | None] = []
    dropped: list[DroppedClip] = []
    seconds: list[float] = []
    outside: list[float] = []
    for survey in surveys:
        windows += survey.windows
        prints += survey.prints
        dropped += survey.dropped
        if survey.seconds is not None:
            seconds.append(survey.seconds)
            outside.append(survey.outside_seconds)
    _check_keys(windows)
    if duplicates is not None:
        copies = _copies(windows, prints, duplicates, is_usable)
        dropped += copies.values()
        windows = [window for window in windows if window.key not in copies]
    return FootageSurvey(
        windows=tuple(windows),
        dropped=tuple(dropped),
        seconds=sum(seconds) if seconds else None,
        outside_seconds=sum(outside) if seconds else None,
    )


def outside_windows(windows: Sequence[ClipWindow], seconds: float, frames_per_second: float) -> float:
    """How much of a film of so many seconds lies in none of its windows, which may overlap."""
    outside, end = 0.0, 0.0
    for window in sorted(windows, key=lambda one: one.start_seconds):
        outside += max(0.0, window.start_seconds - end)
        end = max(end, window.start_seconds + window.num_frames / frames_per_second)
    return outside + max(0.0, seconds - end)


def _check_keys(windows: Iterable[ClipWindow]) -> None:
    taken: dict[str, ClipWindow] = {}
    for window in windows:
        other = taken.setdefault(window.key, window)
        if other is not window:
            raise ValueError(
                f"{other.file.path} and {window.file.path} would both give the clip {window.key!r}: rename one of them"
            )


def _copies(
    windows: Sequence[ClipWindow],
    prints: Sequence[Fingerprint | None],
    search: DuplicateSearch,
    is_usable: Callable[[FootageFile], bool],
) -> dict[str, DroppedClip]:
    """By key, the windows that are copies of others."""
    order = sorted(range(len(windows)), key=lambda index: (-SPLITS.index(windows[index].split), windows[index].key))
    known = [
        (windows[index], found)
        for index in order
        if (found := prints[index]) is not None and is_usable(windows[index].file)
    ]
    originals = search.originals([found for _, found in known])
    return {
        window.key: DroppedClip(
            key=window.key, split=window.split, reason=f"is a duplicate: of {known[original][0].key}"
        )
        for (window, _), original in zip(known, originals, strict=True)
        if original is not None
    }
