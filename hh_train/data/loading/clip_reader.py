"""Planned clips from their shards into batches. A clip that cannot be read is left out of its batch, and reported."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from hh_train.data.loading.cache import DiskCache
from hh_train.data.loading.plan import Place, PlannedClip
from hh_train.data.loading.shard_sets import OpenSet, Reading
from hh_train.data.loading.storage import Buffer, Storage, TruncatedFileError
from hh_train.data.packing import not_finite, pack
from hh_train.data.shards.format import Span, checksum_of, find_spans, latents_from_bytes, sample_record
from hh_train.data.shards.manifest import SampleRecord
from hh_train.types import LatentClip, PackedBatch

REMOTE_THREADS = 8
FETCH_THREADS = 2
FETCH_AHEAD_BATCHES = 64
"""In whose shards are copied to the local cache before their clips are read."""
_MAX_STAND_INS = 64
_MAX_SPANS = 64
_MAX_EVICTIONS = 8
_ALIGNMENT = 64


class UnreadableClipError(ValueError):
    """The bytes of a clip are not those of latents of the recorded shapes."""


@dataclass(frozen=True, kw_only=True)
class SkippedClip:
    """A clip that is missing from its batch, and why."""

    shard: str
    key: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A batch, and the clips that it lacks."""

    batch: PackedBatch
    skipped: tuple[SkippedClip, ...] = ()


@runtime_checkable
class Schedule(Protocol):
    """Which clips make up the batch of a place."""

    def batch(self, place: Place) -> Sequence[PlannedClip]: ...

    def places_from(self, place: Place) -> Iterator[Place]: ...


class ReadingMemory:
    """Memory that the clips of a batch are read into, and those of a later batch again: fresh memory is dear.

    May be taken from by several threads.
    """

    def __init__(self) -> None:
        self._block = np.empty(0, np.uint8)
        self._taken = 0
        self._lock = threading.Lock()

    def take(self, num_bytes: int) -> memoryview:
        """So many bytes that nobody else holds until `clear`."""
        with self._lock:
            start = self._taken
            self._taken += -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
            if self._taken > len(self._block):
                return np.empty(num_bytes, np.uint8).data
            return self._block[start : start + num_bytes].data

    def clear(self) -> None:
        """Everything taken may be taken again, from one block that would have been enough so far."""
        if self._taken > len(self._block):
            self._block = np.empty(self._taken, np.uint8)
        self._taken = 0


class ShardReader:
    """The latents of one shard set: from disk, from copies on disk, or from afar a clip at a time."""

    def __init__(self, *, storage: Storage, cache: DiskCache | None, num_bytes: dict[str, int]) -> None:
        self.storage = storage
        self.cache = cache
        self._num_bytes = num_bytes
        self._copies = None if cache is None else Storage(cache.folder.resolve())
        self._spans: OrderedDict[str, dict[str, Span]] = OrderedDict()

    @classmethod
    def of(cls, opened: OpenSet) -> ShardReader:
        sizes = {shard.name: shard.num_bytes for shard in opened.manifest.shards}
        return cls(storage=opened.storage, cache=opened.cache, num_bytes=sizes)

    def latents(self, shard: str, sample: SampleRecord, memory: ReadingMemory | None = None) -> LatentClip:
        """A clip's latents as they are stored, in the given memory or in their own.

        Raises:
            ValueError: the shard is missing, or neither can a copy be made nor is it known where in it the clip lies.
            UnreadableClipError: the clip's bytes are damaged.
            OSError: reading failed, more often than is tried.
        """
        try:
            payload = self._payload(shard, sample, memory or ReadingMemory())
        except FileNotFoundError as error:
            raise ValueError(
                f"the shard {shard} of {self.storage} is missing: copy it there, or tokenize again with overwrite=true"
            ) from error
        except TruncatedFileError as error:
            raise UnreadableClipError(f"the shard ends too early: {error}") from error
        if sample.checksum is not None and checksum_of(payload) != sample.checksum:
            raise UnreadableClipError("its bytes are not those that were written")
        try:
            clip = latents_from_bytes(sample.key, payload)
        except ValueError as error:
            raise UnreadableClipError(str(error)) from error
        if sample.checksum is not None:
            return clip  # as it was written, and recorded
        found = sample_record(clip)
        if (found.video, found.audio, found.text) != (sample.video, sample.audio, sample.text):
            raise UnreadableClipError("its latents have other shapes than were recorded")
        return clip

    def fetch(self, shard: str) -> None:
        """Copies a shard to the local cache if there is one. What goes wrong is found out when a clip is read."""
        if self.cache is not None:
            with suppress(Exception):
                self.cache.path(self.storage, shard, num_bytes=self._num_bytes[shard])

    def _payload(self, shard: str, sample: SampleRecord, memory: ReadingMemory) -> Buffer:
        if self.cache is not None and self._copies is not None:
            for _ in range(_MAX_EVICTIONS):
                copy = self.cache.path(self.storage, shard, num_bytes=self._num_bytes[shard])
                if copy is None:
                    break
                with suppress(FileNotFoundError):  # others needed the room
                    return self._read(self._copies, copy.name, shard, sample, memory)
        return self._read(self.storage, shard, shard, sample, memory)

    def _read(self, storage: Storage, name: str, shard: str, sample: SampleRecord, memory: ReadingMemory) -> Buffer:
        """A clip's bytes from a shard, or from the file that is its copy."""
        if sample.offset is not None and sample.num_bytes is not None:
            into = memory.take(sample.num_bytes) if storage.is_local else None
            return storage.read(name, start=sample.offset, num_bytes=sample.num_bytes, into=into)
        if not storage.is_local:
            raise ValueError(
                f"the manifest of {storage} does not say where in a shard a clip lies: set reading.cache_folder and "
                "room for a whole shard, or tokenize again"
            )
        spans = self._spans.get(shard)
        if spans is None:
            spans = self._spans[shard] = find_spans(storage.path(name))
            while len(self._spans) > _MAX_SPANS:
                self._spans.popitem(last=False)
        span = spans.get(sample.key)
        if span is None:
            raise UnreadableClipError("it is not found in its shard, which is damaged")
        return storage.read(name, start=span.offset, num_bytes=span.num_bytes)


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """A batch whose clips are being read."""

    place: Place
    planned: Sequence[PlannedClip]
    clips: Sequence[Future[LatentClip | SkippedClip]]
    memory: ReadingMemory


class ClipReader:
    """Builds planned batches. May be handed to other processes.

    Args:
        readers: of the shard sets, by number.
        null_text: stands for a text that is dropped.
        patch: latents per video token along time, height and width.
        reading: how much is read ahead.
    """

    def __init__(
        self, *, readers: Sequence[ShardReader], null_text: Tensor, patch: tuple[int, int, int], reading: Reading
    ) -> None:
        self.readers = readers
        self.null_text = null_text
        self.patch = patch
        self.prefetch_batches = reading.prefetch_batches
        is_remote = not all(reader.storage.is_local for reader in readers)
        self.threads = REMOTE_THREADS * is_remote if reading.threads is None else reading.threads

    def delivery(self, schedule: Schedule, place: Place) -> Delivery:
        """The batch of a place."""
        return next(self.deliveries(schedule, iter((place,))))

    def deliveries(self, schedule: Schedule, places: Iterator[Place]) -> Iterator[Delivery]:
        """The batches of places, in their order; those that follow are read meanwhile."""
        if not self.threads:
            memory = ReadingMemory()
            for place in places:
                planned = schedule.batch(place)
                found = [self._read(clip, memory) for clip in planned]
                delivery = self._packed(schedule, place, planned, found)
                memory.clear()
                yield delivery
            return
        with ExitStack() as stack:
            pool = ThreadPoolExecutor(self.threads)
            stack.callback(pool.shutdown, cancel_futures=True)
            upcoming = self._fetched_ahead(schedule, places, stack)
            memories = [ReadingMemory() for _ in range(self.prefetch_batches)]
            reading: deque[_Reading] = deque()
            while True:
                for place, planned in islice(upcoming, len(memories)):
                    memory = memories.pop()
                    clips = [pool.submit(self._read, clip, memory) for clip in planned]
                    reading.append(_Reading(place=place, planned=planned, clips=clips, memory=memory))
                if not reading:
                    return
                first = reading.popleft()
                found = [clip.result() for clip in first.clips]
                delivery = self._packed(schedule, first.place, first.planned, found)
                first.memory.clear()
                memories.append(first.memory)
                yield delivery

    def _fetched_ahead(
        self, schedule: Schedule, places: Iterator[Place], stack: ExitStack
    ) -> Iterator[tuple[Place, Sequence[PlannedClip]]]:
        """Places with their clips, whose shards are being copied to the local cache since a while ago."""
        if all(reader.cache is None for reader in self.readers):
            yield from ((place, schedule.batch(place)) for place in places)
            return
        pool = ThreadPoolExecutor(FETCH_THREADS)
        stack.callback(pool.shutdown, cancel_futures=True)
        upcoming: deque[tuple[Place, Sequence[PlannedClip]]] = deque()
        recent: deque[tuple[int, str]] = deque(maxlen=256)
        for place in places:
            clips = schedule.batch(place)
            upcoming.append((place, clips))
            for shard in dict.fromkeys((clip.set_number, clip.shard) for clip in clips):
                if shard not in recent:
                    recent.append(shard)
                    pool.submit(self.readers[shard[0]].fetch, shard[1])
            if len(upcoming) >= FETCH_AHEAD_BATCHES:
                yield upcoming.popleft()
        yield from upcoming

    def _read(self, planned: PlannedClip, memory: ReadingMemory | None = None) -> LatentClip | SkippedClip:
        try:
            stored = self.readers[planned.set_number].latents(planned.shard, planned.sample, memory)
        except UnreadableClipError as error:
            return SkippedClip(shard=planned.shard, key=planned.sample.key, reason=str(error))
        return LatentClip(
            key=stored.key,
            audio=stored.audio,
            video=None if planned.drops_video else stored.video,
            text=self.null_text if planned.drops_text else stored.text,
            num_given_frames=planned.num_given_frames,
            audio_is_given=planned.audio_is_given,
        )

    def _packed(
        self,
        schedule: Schedule,
        place: Place,
        planned: Sequence[PlannedClip],
        found: Sequence[LatentClip | SkippedClip],
    ) -> Delivery:
        """A batch of which nothing is left is replaced by the next of the plan, which then comes twice."""
        skipped: list[SkippedClip] = []
        batch = self._batch_of(planned, found, skipped)
        if batch is not None:
            return Delivery(batch=batch, skipped=tuple(skipped))
        for stand_in in islice(schedule.places_from(place), 1, _MAX_STAND_INS):
            planned = schedule.batch(stand_in)
            batch = self._batch_of(planned, [self._read(clip) for clip in planned], skipped)
            if batch is not None:
                return Delivery(batch=batch, skipped=tuple(skipped))
        raise ValueError(
            f"none of {len(skipped)} clips in a row can be read, such as {skipped[0].key!r} of {skipped[0].shard}: "
            f"{skipped[0].reason}; copy the shards again, or tokenize again with overwrite=true"
        )

    def _batch_of(
        self, planned: Sequence[PlannedClip], found: Sequence[LatentClip | SkippedClip], skipped: list[SkippedClip]
    ) -> PackedBatch | None:
        """The clips that can be packed, if there are any; the others are added to `skipped`."""
        clips = [clip for clip in found if isinstance(clip, LatentClip)]
        skipped += [clip for clip in found if isinstance(clip, SkippedClip)]
        are_known_finite = all(clip.sample.checksum is not None for clip in planned)  # since nothing else is written
        try:
            return pack(clips, patch=self.patch, are_known_finite=are_known_finite) if clips else None
        except ValueError:
            shards = {clip.sample.key: clip.shard for clip in planned}
            faults = {clip.key: name for clip in clips if (name := not_finite(clip)) is not None}
            if not faults:
                raise
            skipped += [
                SkippedClip(shard=shards[key], key=key, reason=f"its {name} latents hold NaN or infinite values")
                for key, name in faults.items()
            ]
            sound = [clip for clip in clips if clip.key not in faults]
            return pack(sound, patch=self.patch) if sound else None
