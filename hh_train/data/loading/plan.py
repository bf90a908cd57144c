"""Which clips go into which batch: a pure function of seed and epoch, so that any batch is found without reading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from math import inf
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hh_train.data.loading.clip_index import ClipColumns, ClipIndex, digest_of
from hh_train.data.loading.conditions import Conditions, DrawnConditions, Phase
from hh_train.data.loading.dense_packing import pack_densely
from hh_train.data.loading.mixture import ShuffledSet, interleaved, proportions
from hh_train.data.shards.manifest import Manifest, SampleRecord

Key = TypeVar("Key")
Value = TypeVar("Value")
BATCHES_PER_SEGMENT = 1024
"""An epoch is packed in parts of about so many batches, each by itself: to enter an epoch, one part is packed."""


@dataclass(frozen=True, kw_only=True)
class PlannedClip:
    """One clip of a batch: where it lies and what is made of it this time."""

    shard: str
    sample: SampleRecord
    drops_text: bool = False
    """Whether the null prompt takes the place of its text."""
    num_given_frames: int = 0
    audio_is_given: bool = False
    drops_video: bool = False
    """Whether only its sound is learnt."""
    set_number: int = 0
    """Which of several shard sets it is from."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Counts tokens and closes batches.

    Args:
        patch: latents per video token along time, height and width.
        tokens_per_batch: no batch has more.
        null_text_tokens: of the null prompt.
    """

    patch: tuple[int, int, int]
    tokens_per_batch: int
    null_text_tokens: int

    def tokens(self, clip: PlannedClip) -> int:
        sample = clip.sample
        grid = None if clip.drops_video else sample.video
        video = 1 if grid else 0
        for size, step in zip(grid or (), self.patch, strict=False):
            video *= size // step
        return video + (sample.audio or 0) + (self.null_text_tokens if clip.drops_text else sample.text)

    def tokens_of(
        self, clips: ClipColumns, drops_text: NDArray[np.bool_] | bool, drops_video: NDArray[np.bool_] | bool
    ) -> NDArray[np.int64]:
        """`tokens` of many clips at once."""
        video = np.prod(clips.grid // np.array(self.patch, dtype=np.int32), axis=1, dtype=np.int64)
        text = np.where(drops_text, self.null_text_tokens, clips.text)
        return np.where(drops_video, 0, video) + np.maximum(clips.audio, 0) + text

    def check(self, samples: Sequence[SampleRecord]) -> None:
        """Raises ValueError, naming the clip, when one cannot be cut into patches or is larger than a batch may be."""
        for sample in samples:
            if sample.video and any(size % step for size, step in zip(sample.video, self.patch, strict=True)):
                raise ValueError(
                    f"clip {sample.key!r} has video latents of T x h x w = {sample.video}, which a patch of "
                    f"{self.patch} does not divide: choose another patch, or tokenize at another size"
                )
            largest = max(
                self.tokens(PlannedClip(shard="", sample=sample, drops_text=drops)) for drops in (False, True)
            )
            if largest > self.tokens_per_batch:
                raise ValueError(
                    f"clip {sample.key!r} has up to {largest} tokens, but tokens_per_batch is {self.tokens_per_batch}: "
                    "raise it, or tokenize with a lower max_frames or size"
                )

    def check_index(self, index: ClipIndex) -> None:
        """`check` for every clip of an index, which may have millions."""
        clips = index.columns
        largest = np.maximum(self.tokens_of(clips, False, False), self.tokens_of(clips, True, False))
        uneven = (clips.grid % np.array(self.patch, dtype=np.int32)).any(axis=1)
        faults = np.flatnonzero(uneven | (largest > self.tokens_per_batch))
        self.check(index.records(faults[:1].tolist()))

    def batches(self, clips: Sequence[PlannedClip]) -> Iterator[list[PlannedClip]]:
        """Fills batches in the order of the clips, each as long as the next clip fits."""
        batch: list[PlannedClip] = []
        used = 0
        for clip in clips:
            tokens = self.tokens(clip)
            if batch and used + tokens > self.tokens_per_batch:
                yield batch
                batch, used = [], 0
            batch.append(clip)
            used += tokens
        if batch:
            yield batch


@dataclass(frozen=True, kw_only=True)
class WeightedManifest:
    """One of several shard sets that are mixed.

    Args:
        manifest: of its shards.
        weight: its share of the clips, over the sum of all weights; None goes by the sets' sizes.
        clip_weights: how often a clip comes in a pass, by key; clips that are not named come once.
    """

    manifest: Manifest
    weight: float | None = None
    clip_weights: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, order=True)
class Place:
    """A batch of the endless plan: the part of the epoch in which it is, and its number in that part."""

    epoch: int = 0
    segment: int = 0
    batch: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class _Epoch:
    """The clips of an epoch in the order in which they come."""

    set_number: NDArray[np.int64]
    clip: NDArray[np.int64]
    drawn: DrawnConditions
    tokens: NDArray[np.int64]
    bounds: tuple[int, ...]
    """Where segments begin, and the end."""


class TrainingPlan:
    """The endless sequence of training batches, an epoch at a time, of the training clips of one or several sets.

    An epoch of one set shows every clip once. With several sets it has as many clips as they have together, taken in
    the proportion of their weights: a set that has fewer clips than its share comes round again, and another is gone
    through over more than one epoch. All follows from the arguments and from integers alone.

    Args:
        manifest: of the shards, or several with their weights.
        budget: of a batch.
        conditions: what is drawn for each clip.
        seed: of the order and of the draws.
        shards_in_hand: shards of a set whose clips are mixed with one another.
        phases: a curriculum; none leaves everything as it is.
        clips_per_epoch: another length of an epoch.
        lookahead: clips among which a batch that is nearly full looks for one that fits.

    Raises:
        ValueError: there are no training clips, or weights or phases make no sense.
    """

    def __init__(
        self,
        *,
        manifest: Manifest | Sequence[WeightedManifest],
        budget: Budget,
        conditions: Conditions,
        seed: int,
        shards_in_hand: int,
        phases: Sequence[Phase] = (),
        clips_per_epoch: int | None = None,
        lookahead: int = 256,
    ) -> None:
        manifests = [WeightedManifest(manifest=manifest)] if isinstance(manifest, Manifest) else list(manifest)
        self.budget = budget
        self.conditions = conditions
        self.seed = seed
        self.clips_per_epoch = clips_per_epoch
        self.lookahead = lookahead
        self.phases = sorted(phases, key=lambda phase: phase.from_epoch)
        self.indexes = [ClipIndex.of(one.manifest, "train") for one in manifests]
        if not all(map(len, self.indexes)):
            raise ValueError("a shard set has no training clips: tokenize footage that has some")
        self._weights = _set_weights([one.weight for one in manifests])
        self._sets = [
            ShuffledSet(
                index,
                seed=f"{seed}/{number}",
                shards_in_hand=shards_in_hand,
                weights=_clip_weights(index, one.clip_weights),
            )
            for number, (index, one) in enumerate(zip(self.indexes, manifests, strict=True))
        ]
        self._columns = ClipColumns.concatenate([index.columns for index in self.indexes])
        self._first_rows = np.cumsum([0, *(len(index) for index in self.indexes[:-1])])
        _check_weights(self._weights)
        self._check()
        self._epochs: dict[int, _Epoch] = {}
        self._segments: dict[tuple[int, int], list[list[int]]] = {}

    def epoch(self, epoch: int) -> list[list[PlannedClip]]:
        """All batches of an epoch."""
        segments = (self._segment(epoch, number) for number in range(self.num_segments(epoch)))
        return [self._planned(epoch, batch) for segment in segments for batch in segment]

    def num_segments(self, epoch: int) -> int:
        return len(self._epoch(epoch).bounds) - 1

    def batch(self, place: Place) -> list[PlannedClip]:
        return self._planned(place.epoch, self._segment(place.epoch, place.segment)[place.batch])

    def places_from(self, place: Place, *, step: int = 1) -> Iterator[Place]:
        """This place and every `step`-th after it, without end."""
        while True:
            yield place
            place = self.advanced(place, step)

    def advanced(self, place: Place, num_batches: int) -> Place:
        """The place so many batches later."""
        epoch, segment, batch = place.epoch, place.segment, place.batch + num_batches
        while batch >= (length := len(self._segment(epoch, segment))):
            batch -= length
            epoch, segment = self._after(epoch, segment)
        return Place(epoch=epoch, segment=segment, batch=batch)

    def decided_by(self) -> dict[str, Any]:
        """What the sequence of batches follows from, as JSON values: equal here, equal batches."""
        return {
            "seed": self.seed,
            "tokens_per_batch": self.budget.tokens_per_batch,
            "patch": list(self.budget.patch),
            "null_text_tokens": self.budget.null_text_tokens,
            "shards": [index.digest() for index in self.indexes],
            "weights": self._weights,
            "clip_weights": [digest_of(one.weights.tobytes()) for one in self._sets],
            "shards_in_hand": self._sets[0].shards_in_hand,
            "conditions": asdict(self.conditions),
            "curriculum": [asdict(phase) for phase in self.phases],
            "clips_per_epoch": self.clips_per_epoch,
            "lookahead": self.lookahead,
        }

    def _after(self, epoch: int, segment: int) -> tuple[int, int]:
        return (epoch, segment + 1) if segment + 1 < self.num_segments(epoch) else (epoch + 1, 0)

    def _segment(self, epoch: int, number: int) -> list[list[int]]:
        """The batches of a part of an epoch, as positions in the epoch; the two used last are remembered."""
        if (epoch, number) not in self._segments:
            of_epoch = self._epoch(epoch)
            start, stop = of_epoch.bounds[number : number + 2]
            packed = pack_densely(
                of_epoch.tokens[start:stop].tolist(), self.budget.tokens_per_batch, lookahead=self.lookahead
            )
            batches = [[start + position for position in batch] for batch in packed]
            _remember(self._segments, (epoch, number), batches)
        return self._segments[epoch, number]

    def _planned(self, epoch: int, positions: list[int]) -> list[PlannedClip]:
        of_epoch = self._epoch(epoch)
        numbers, clips = of_epoch.set_number[positions].tolist(), of_epoch.clip[positions].tolist()
        drawn = [column[positions].tolist() for column in vars(of_epoch.drawn).values()]
        if len(self.indexes) == 1:
            samples = self.indexes[0].records(clips)
        else:
            samples = [self.indexes[n].records([clip])[0] for n, clip in zip(numbers, clips, strict=True)]
        return [
            PlannedClip(
                shard=self.indexes[number].shards[self.indexes[number].shard[clip]],
                sample=sample,
                drops_text=drops_text,
                num_given_frames=int(gives_image),
                audio_is_given=gives_audio,
                drops_video=drops_video,
                set_number=number,
            )
            for number, clip, sample, drops_text, gives_image, gives_audio, drops_video in zip(
                numbers, clips, samples, *drawn, strict=True
            )
        ]

    def _epoch(self, epoch: int) -> _Epoch:
        """The two epochs used last are remembered."""
        if epoch not in self._epochs:
            _remember(self._epochs, epoch, self._made_epoch(epoch))
        return self._epochs[epoch]

    def _made_epoch(self, epoch: int) -> _Epoch:
        phase = self._phase(epoch)
        draws = interleaved(self._sets, self._starts(epoch), self._counts(phase), seed=str(self.seed), epoch=epoch)
        clips = self._columns.take(self._first_rows[draws.set_number] + draws.clip)
        drawn = phase.conditions(self.conditions).draw(clips, draws.turn, seed=self.seed)
        tokens = self.budget.tokens_of(clips, drawn.drops_text, drawn.drops_video)
        if phase.max_clip_tokens is not None:
            short = tokens <= phase.max_clip_tokens
            draws, drawn, tokens = draws[short], drawn[short], tokens[short]
        if not len(draws):
            raise ValueError(
                f"epoch {epoch} has no clips: max_clip_tokens of the curriculum's phase from epoch "
                f"{phase.from_epoch} is {phase.max_clip_tokens}; raise it"
            )
        num_segments = max(1, round(int(tokens.sum()) / self.budget.tokens_per_batch / BATCHES_PER_SEGMENT))
        bounds = [len(draws) * number // num_segments for number in range(num_segments + 1)]
        return _Epoch(set_number=draws.set_number, clip=draws.clip, drawn=drawn, tokens=tokens, bounds=tuple(bounds))

    def _phase(self, epoch: int) -> Phase:
        begun = [phase for phase in self.phases if phase.from_epoch <= epoch]
        return begun[-1] if begun else Phase(from_epoch=0)

    def _counts(self, phase: Phase) -> list[int]:
        """Clips of each set in an epoch."""
        weights = self._weights if phase.weights is None else phase.weights
        return proportions(self._sets, weights, self.clips_per_epoch)

    def _starts(self, epoch: int) -> list[int]:
        """How many clips of each set the epochs before have taken."""
        starts = [0] * len(self._sets)
        edges = sorted({0, epoch, *(phase.from_epoch for phase in self.phases if 0 < phase.from_epoch < epoch)})
        for first, following in pairwise(edges):
            counts = self._counts(self._phase(first))
            starts = [start + (following - first) * count for start, count in zip(starts, counts, strict=True)]
        return starts

    def _check(self) -> None:
        if self.clips_per_epoch is not None and self.clips_per_epoch < 1:
            raise ValueError(f"got clips_per_epoch {self.clips_per_epoch}; wanted 1 or more, or null for all clips")
        firsts = [phase.from_epoch for phase in self.phases]
        if len(set(firsts)) < len(firsts) or min(firsts, default=0) < 0:
            raise ValueError(f"the phases of the curriculum begin at epochs {firsts}; wanted each at one of its own")
        for phase in self.phases:
            phase.conditions(self.conditions)
            if phase.weights is not None and len(phase.weights) != len(self._sets):
                raise ValueError(
                    f"the phase from epoch {phase.from_epoch} has {len(phase.weights)} weights for {len(self._sets)} "
                    "shard sets; wanted one for each"
                )
            _check_weights(phase.weights)


def _remember(memory: dict[Key, Value], key: Key, value: Value) -> None:
    """Keeps this and the one before."""
    for old in list(memory)[:-1]:
        del memory[old]
    memory[key] = value


def _check_weights(weights: Sequence[float] | None) -> None:
    if weights is not None and not (min(weights) >= 0 and 0 < sum(weights) < inf):
        raise ValueError(f"got the weights {list(weights)} of shard sets; wanted none below 0 and one above")


def _set_weights(weights: list[float | None]) -> list[float] | None:
    given = [weight for weight in weights if weight is not None]
    if given and len(given) < len(weights):
        raise ValueError(f"got the weights {weights} of shard sets; wanted one for each, or none at all")
    return given or None


def _clip_weights(index: ClipIndex, by_key: Mapping[str, float]) -> NDArray[np.float64] | None:
    return np.array([by_key.get(key, 1.0) for key in index.keys_in_order()]) if by_key else None


@dataclass(frozen=True, kw_only=True)
class FixedPlan:
    """A few batches in a fixed order, such as those of a held-out split."""

    batches: Sequence[Sequence[PlannedClip]]

    def batch(self, place: Place) -> Sequence[PlannedClip]:
        return self.batches[place.batch]

    def places_from(self, place: Place) -> Iterator[Place]:
        """This place and those after it, then those from the first on."""
        for number in range(len(self.batches)):
            yield Place(batch=(place.batch + number) % len(self.batches))


def validation_plan(
    manifests: Sequence[Manifest], split: str, budget: Budget, *, max_clips: int | None, num_ranks: int
) -> list[list[PlannedClip]]:
    """The batches of a held-out split, set by set, always the same, as many for each rank.

    To get there, batches are halved; only where there are fewer clips than ranks does a batch come twice.
    """
    clips = [
        PlannedClip(shard=shard.name, sample=sample, set_number=number)
        for number, manifest in enumerate(manifests)
        for shard in manifest.shards_of(split)
        for sample in shard.samples
    ]
    batches = list(budget.batches(clips[:max_clips]))
    while batches and len(batches) % num_ranks:
        largest = max(range(len(batches)), key=lambda index: len(batches[index]))
        batch = batches[largest]
        if len(batch) == 1:
            batches.append(batches[len(batches) % len(clips)])
        else:
            batches[largest : largest + 1] = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
    return batches
