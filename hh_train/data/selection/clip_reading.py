"""Windows of footage to decoded clips that pass the filters, several at a time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from hh_train.data.footage.files import DroppedClip, FootageFile, read_metadata
from hh_train.data.media.files import MediaReader
from hh_train.data.selection.filters import ClipFilter
from hh_train.data.selection.windows import PART_SECONDS, ClipWindow, WindowLengths
from hh_train.types import Clip, ClipMetadata

PART_NOTE = "are stretches of longer files, and lose the words of the whole file (a transcriber hears their own)"
_LEAST_SAMPLE = 2.0**-15

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class WindowClip:
    """A decoded window, with what is known about it."""

    window: ClipWindow
    clip: Clip
    metadata: ClipMetadata
    notes: tuple[str, ...] = ()
    """What is to be counted of clips like this, each to be read after `<number> clips`."""


@dataclass(frozen=True, kw_only=True)
class WindowReader:
    """Reads windows and judges them."""

    reader: MediaReader
    lengths: WindowLengths
    filters: Mapping[str, ClipFilter]
    needs_caption: bool = True
    """Whether a clip without caption is left out; otherwise its description stays empty."""
    hears_words: bool = False
    """Whether the words of stretches of longer files are heard anew; otherwise those that lose theirs are noted."""

    def read(self, window: ClipWindow) -> WindowClip | DroppedClip:
        """The clip, or why there is none. Never raises on bad input."""
        try:
            metadata = read_metadata(window.file, caption_required=self.needs_caption)
            clip = self._fitted(
                self.reader.read(
                    window.file.path,
                    start_seconds=window.start_seconds,
                    max_frames=window.num_frames,
                    size=window.size,
                )
            )
            remarks = self._judged(clip)
            has_words = bool(metadata.transcript or metadata.prompt.dialogue)
            if has_words and not window.is_part and self._goes_on(window, clip):
                window = replace(window, is_part=True)
        except (ValueError, OSError) as error:
            return DroppedClip(key=window.key, split=window.split, reason=str(error))
        notes = (*remarks, PART_NOTE) if has_words and window.is_part and not self.hears_words else remarks
        return WindowClip(window=window, clip=clip, metadata=replace(metadata, key=window.key), notes=notes)

    def _judged(self, clip: Clip) -> tuple[str, ...]:
        """What the filters remark. Raises ValueError with the first reason to leave the clip out."""
        remarks = []
        for chosen in self.filters.values():
            verdict = chosen.judge(clip)
            if verdict.reason is not None:
                raise ValueError(verdict.reason)
            remarks += [] if verdict.remark is None else [verdict.remark]
        return tuple(remarks)

    def _goes_on(self, window: ClipWindow, clip: Clip) -> bool:
        """Whether the file goes on after a clip that is as long as was asked for."""
        frames = clip.frames.shape[0]
        if frames == 1 or frames + self.lengths.multiple <= window.num_frames:
            return False
        try:
            seconds = self.reader.probe(window.file.path).seconds
        except ValueError:
            return False
        return seconds - window.start_seconds - frames / clip.frames_per_second > PART_SECONDS

    def is_described(self, file: FootageFile) -> bool:
        """Whether there is a caption, or none is needed."""
        try:
            read_metadata(file, caption_required=self.needs_caption)
        except (ValueError, OSError):
            return False
        return True

    def read_all(
        self, windows: Iterable[ClipWindow], *, num_workers: int | None = None
    ) -> Iterator[WindowClip | DroppedClip]:
        """Reads windows in their order, `num_workers` at a time (as many as there are processors by default)."""
        return in_parallel(self.read, windows, num_workers=num_workers)

    def _fitted(self, clip: Clip) -> Clip:
        """The clip at a length of the buckets: a file may hold fewer frames than it says. A mute track is no sound.

        Raises:
            ValueError: there are fewer frames than in the shortest bucket.
        """
        clip = without_mute_track(clip)
        there = clip.frames.shape[0]
        if not self.lengths.buckets.frames or there in self.lengths.buckets.frames:
            return clip
        length = self.lengths.fitting(there)
        if length is None:
            raise ValueError(
                f"is too short: {there} frames at {clip.frames_per_second:g} a second, "
                f"wanted {self.lengths.least} at the least"
            )
        samples = round(length * clip.samples_per_second / clip.frames_per_second)
        waveform = None if clip.waveform is None else clip.waveform[:samples]
        return replace(clip, frames=clip.frames[:length], waveform=waveform)


def without_mute_track(clip: Clip) -> Clip:
    """The clip without a sound in which no sample reaches a step of 16 bits, as recorders and editors write that mute.

    Trained on as sound, it would teach that people move their lips and nothing is heard.
    """
    if clip.waveform is None or bool((clip.waveform.abs() >= _LEAST_SAMPLE).any()):
        return clip
    return replace(clip, waveform=None)


def in_parallel(
    function: Callable[[Item], Result], items: Iterable[Item], *, num_workers: int | None = None
) -> Iterator[Result]:
    """`map` in threads, since decoding releases Python's lock. At most twice as many results as workers wait."""
    workers = max(1, num_workers if num_workers is not None else os.cpu_count() or 1)
    with ThreadPoolExecutor(workers, thread_name_prefix="footage") as pool:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
