"""Planned clips from their shards into batches. A clip that cannot be read is left out of its batch, and reported."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol, runtime_checkable

import safetensors
from torch import Tensor

from hh_train.data.loading.assembly import assemble
from hh_train.data.loading.cache import DiskCache
from hh_train.data.loading.plan import Place, PlannedClip
from hh_train.data.loading.shard_sets import OpenSet, Reading
from hh_train.data.loading.storage import Storage, TruncatedFileError
from hh_train.data.shards.format import Span, find_spans, latents_from_bytes, sample_record
from hh_train.data.shards.manifest import SampleRecord
from hh_train.types import LatentClip, PackedBatch

REMOTE_THREADS = 8
FETCH_THREADS = 2
FETCH_AHEAD_BATCHES = 64
"""In whose shards are copied to the local cache before their clips are read."""
_MAX_STAND_INS = 64
_MAX_SPANS = 64
_MAX_EVICTIONS = 8


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

    def latents(self, shard: str, sample: SampleRecord) -> LatentClip:
        """A clip's latents as they are stored.

        Raises:
            ValueError: the shard is missing, or neither can a copy be made nor is it known where in it the clip lies.
            UnreadableClipError: the clip's bytes are damaged.
            OSError: reading failed, more often than is tried.
        """
        try:
            payload = self._payload(shard, sample)
            clip = latents_from_bytes(sample.key, payload)
        except FileNotFoundError as error:
            raise ValueError(
                f"the shard {shard} of {self.storage} is missing: copy it there, or tokenize again with overwrite=true"
            ) from error
        except TruncatedFileError as error:
            raise UnreadableClipError(f"the shard ends too early: {error}") from error
        except (safetensors.SafetensorError, KeyError) as error:
            raise UnreadableClipError(f"its bytes are no latents: {error}") from error
        found = sample_record(clip)
        if (found.video, found.audio, found.text) != (sample.video, sample.audio, sample.text):
            raise UnreadableClipError("its latents have other shapes than were recorded")
        return clip

    def fetch(self, shard: str) -> None:
        """Copies a shard to the local cache if there is one. What goes wrong is found out when a clip is read."""
        if self.cache is not None:
            with suppress(Exception):
                self.cache.path(self.storage, shard, num_bytes=self._num_bytes[shard])

    def _payload(self, shard: str, sample: SampleRecord) -> bytes:
        if self.cache is not None and self._copies is not None:
            for _ in range(_MAX_EVICTIONS):
                copy = self.cache.path(self.storage, shard, num_bytes=self._num_bytes[shard])
                if copy is None:
                    break
                with suppress(FileNotFoundError):  # others needed the room
                    return self._read(self._copies, copy.name, shard, sample)
        return self._read(self.storage, shard, shard, sample)

    def _read(self, storage: Storage, name: str, shard: str, sample: SampleRecord) -> bytes:
        """A clip's bytes from a shard, or from the file that is its copy."""
        if sample.offset is not None and sample.num_bytes is not None:
            return storage.read(name, start=sample.offset, num_bytes=sample.num_bytes)
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
        planned = schedule.batch(place)
        if not self.threads:
            return self._packed(schedule, place, planned, map(self._read, planned))
        with ThreadPoolExecutor(self.threads) as pool:
            return self._packed(schedule, place, planned, pool.map(self._read, planned))

    def deliveries(self, schedule: Schedule, places: Iterator[Place]) -> Iterator[Delivery]:
        """The batches of places, in their order; those that follow are read meanwhile."""
        if not self.threads:
            for place in places:
                planned = schedule.batch(place)
                yield self._packed(schedule, place, planned, map(self._read, planned))
            return
        with ExitStack() as stack:
            pool = ThreadPoolExecutor(self.threads)
            stack.callback(pool.shutdown, cancel_futures=True)
            upcoming = self._fetched_ahead(schedule, places, stack)
            reading: deque[tuple[Place, Sequence[PlannedClip], list[Future[LatentClip | SkippedClip]]]] = deque()
            while True:
                for place, planned in islice(upcoming, self.prefetch_batches - len(reading)):
                    reading.append((place, planned, [pool.submit(self._read, clip) for clip in planned]))
                if not reading:
                    return
                place, planned, futures = reading.popleft()
                yield self._packed(schedule, place, planned, (future.result() for future in futures))

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

    def _read(self, planned: PlannedClip) -> LatentClip | SkippedClip:
        try:
            stored = self.readers[planned.set_number].latents(planned.shard, planned.sample)
        except UnreadableClipError as error:
            return SkippedClip(shard=planned.shard, key=planned.sample.key, reason=str(error))
        return replace(
            stored,
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
        found: Iterable[LatentClip | SkippedClip],
    ) -> Delivery:
        """A batch of which nothing is left is replaced by the next of the plan, which then comes twice."""
        skipped: list[SkippedClip] = []
        batch = self._batch_of(planned, list(found), skipped)
        if batch is not None:
            return Delivery(batch=batch, skipped=tuple(skipped))
        for stand_in in islice(schedule.places_from(place), 1, _MAX_STAND_INS):
            planned = schedule.batch(stand_in)
            batch = self._batch_of(planned, list(map(self._read, planned)), skipped)
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
        try:
            return assemble(clips, patch=self.patch) if clips else None
        except ValueError:
            shards = {clip.sample.key: clip.shard for clip in planned}
            faults = {clip.key: fault for clip in clips if (fault := _fault(clip)) is not None}
            if not faults:
                raise
            skipped += [SkippedClip(shard=shards[key], key=key, reason=reason) for key, reason in faults.items()]
            sound = [clip for clip in clips if clip.key not in faults]
            return assemble(sound, patch=self.patch) if sound else None


def _fault(clip: LatentClip) -> str | None:
    for name in ("video", "audio", "text"):
        latent = getattr(clip, name)
        if latent is not None and not bool(latent.isfinite().all()):
            return f"its {name} latents hold NaN or infinite values"
    return None
