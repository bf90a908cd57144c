"""Footage as the windows that it gives, the way to read them, and what would become of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hh_train.data.footage.files import SPLITS, DroppedClip, FootageFile, find_footage
from hh_train.data.selection.accounting import Accounting, KeptClip
from hh_train.data.selection.clip_reading import WindowClip, WindowReader
from hh_train.data.selection.survey import FootageSurvey, Surveyor, gather, survey_footage
from hh_train.data.selection.windows import ClipWindow
from hh_train.data.shards.clip_digest import clip_digest
from hh_train.data.shards.file_lock import FileLock
from hh_train.runtime import logging

SURVEY_FOLDER = ".survey"
UNPACKED_FOLDER = ".unpacked"


@dataclass(frozen=True, kw_only=True)
class FootageSource:
    """The footage as windows, and the way to read them."""

    files: Sequence[FootageFile]
    first_file: int
    """Number of the file that this process looks at first."""
    surveyor: Surveyor
    reader: WindowReader
    cache: Path
    num_workers: int | None

    def settings(self) -> dict[str, Any]:
        """All that decides which clips there are, as plain JSON values."""
        filters = {name: chosen.settings() for name, chosen in self.reader.filters.items()}
        return {**self.surveyor.settings(), "filters": filters or None}

    def survey(self) -> FootageSurvey:
        """All files. Processes that start together begin at different files, and find those of the others done."""
        if not self.surveyor.opens_files:
            return gather(map(self.surveyor.survey, self.files))
        files = [*self.files[self.first_file :], *self.files[: self.first_file]]
        with progress_bar() as progress:
            surveys = survey_footage(files, self.surveyor, cache=self.cache, num_workers=self.num_workers)
            found = list(progress.track(surveys, len(files), description="survey"))
        last = len(files) - self.first_file
        in_order = [*found[last:], *found[:last]]
        return gather(in_order, self.surveyor.duplicates, is_usable=self.reader.is_described)

    def read(self, windows: Iterable[ClipWindow]) -> Iterator[WindowClip | DroppedClip]:
        """Windows decoded and judged, in their order."""
        return self.reader.read_all(windows, num_workers=self.num_workers)


def find_files(footage: str, output: Path, held_out_share: float) -> tuple[FootageFile, ...]:
    """The files of the footage. Processes that start together unpack tars one after the other."""
    if not Path(footage).exists() or not any(_tars(Path(footage))):
        return find_footage(footage, held_out_share=held_out_share)
    output.mkdir(parents=True, exist_ok=True)
    with FileLock(output / f"{UNPACKED_FOLDER}.lock"):
        return find_footage(footage, held_out_share=held_out_share, unpack_to=output / UNPACKED_FOLDER)


def _tars(footage: Path) -> Iterator[Path]:
    if footage.is_dir():
        yield from footage.rglob("*.tar")
    elif footage.suffix.lower() == ".tar":
        yield footage


def preview(source: FootageSource) -> Accounting:
    """What would be kept and left out, up to where clips are described and encoded."""
    survey = source.survey()
    kept, dropped = [], list(survey.dropped)
    notes: Counter[str] = Counter()
    with progress_bar() as progress:
        clips = progress.track(source.read(survey.windows), len(survey.windows), description="read")
        for item in clips:
            if isinstance(item, DroppedClip):
                dropped.append(item)
                continue
            notes.update(item.notes)
            num_frames, height, width, _ = item.clip.frames.shape
            kept.append(
                KeptClip(
                    split=item.window.split,
                    height=height,
                    width=width,
                    num_frames=num_frames,
                    frames_per_second=item.clip.frames_per_second,
                )
            )
    return Accounting.of(
        kept,
        dropped,
        files=len(source.files),
        footage_seconds=survey.seconds,
        outside_seconds=survey.outside_seconds,
        notes=notes,
    )


def file_digest(file: FootageFile) -> str:
    """Changes with the media and with what is said of it."""
    beside = map(file.path.with_suffix, (".txt", ".json"))
    return clip_digest((file.path, *beside), file.split, file.metadata, file.problem)


def clip_digests(survey: FootageSurvey, files: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """By split, in the order of writing: for each clip what tells whether it is still the same."""
    found: dict[str, dict[str, str]] = {}
    for split in SPLITS:
        lost, windows = survey.split(split)
        digests = {clip.key: clip_digest((), clip.reason) for clip in lost}
        digests |= {
            w.key: clip_digest((), files[w.file.key], w.start_seconds, w.num_frames, w.size, w.shots, w.is_part)
            for w in windows
        }
        if digests:
            found[split] = digests
    return found


def progress_bar() -> Progress:
    """Of clips, on the console of messages."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=logging.console, transient=True)
