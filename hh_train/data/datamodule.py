"""Latent shards as packed batches for training and validation, with exact resume."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from hh_train.data.loading.clip_index import ClipIndex
from hh_train.data.loading.clip_reader import ClipReader, Delivery, ShardReader, SkippedClip
from hh_train.data.loading.conditions import Conditions, Phase
from hh_train.data.loading.plan import Budget, FixedPlan, Place, TrainingPlan, WeightedManifest, validation_plan
from hh_train.data.loading.shard_sets import OpenSet, Reading, ShardSet, common_null_text, open_shard_sets
from hh_train.data.shards.manifest import Manifest, differing_settings
from hh_train.types import PackedBatch

log = logging.getLogger(__name__)


class LatentDataModule(LightningDataModule):
    """Training batches without end, validation batches in a fixed order, from one or several sets of latent shards.

    The sequence of global batches is a function of the seed and the data alone, and every epoch holds every clip. Each
    step takes one batch for every rank, so ranks see different clips and never run dry, and a run that is resumed, on
    as many ranks and workers or other numbers, goes on with the very next batch. The samplers that Lightning would add
    are not wanted: `Trainer(use_distributed_sampler=False)`.

    A clip whose bytes are damaged is left out of its batch, reported as an error and counted in `skipped`.

    Args:
        shards: the folder that `hh-train tokenize` wrote, its copy in object storage, or several with their weights.
        patch: latents per video token along time, height and width.
        tokens_per_batch: budget of one rank's batch, which clips fill as well as they can.
        seed: of the order and of the draws below.
        text_dropout: share of training clips that get the null prompt.
        image_to_video_share: share of training clips whose first latent frame is given.
        audio_to_video_share: share of training clips whose sound is given.
        sound_only_share: share of training clips that are trained without their picture.
        curriculum: what changes from which epoch on.
        clips_per_epoch: another length of an epoch than all clips.
        max_validation_clips: the validation loader takes the first so many; None takes all.
        shards_in_hand: shards of a set whose clips are mixed with one another.
        lookahead: clips among which a batch that is nearly full looks for those that fill it.
        reading: threads, retries and the cache of remote shards.
        num_workers: reading processes; 0 reads in the training process.

    Raises:
        ValueError: in `setup`, when there are no shards, sets do not go together or a clip does not fit.
    """

    def __init__(  # noqa: PLR0913 (the keys of a configuration, read by name)
        self,
        *,
        shards: str | ShardSet | Sequence[str | ShardSet],
        patch: tuple[int, int, int],
        tokens_per_batch: int,
        seed: int = 0,
        text_dropout: float = 0.1,
        image_to_video_share: float = 0.1,
        audio_to_video_share: float = 0.1,
        sound_only_share: float = 0.0,
        curriculum: Sequence[Phase] = (),
        clips_per_epoch: int | None = None,
        max_validation_clips: int | None = None,
        shards_in_hand: int = 8,
        lookahead: int = 256,
        reading: Reading | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.shards = shards
        self.patch = (int(patch[0]), int(patch[1]), int(patch[2]))
        self.tokens_per_batch = tokens_per_batch
        self.seed = seed
        self.conditions = Conditions(
            text_dropout=text_dropout,
            image_to_video_share=image_to_video_share,
            audio_to_video_share=audio_to_video_share,
            sound_only_share=sound_only_share,
        )
        self.curriculum = tuple(curriculum)
        self.clips_per_epoch = clips_per_epoch
        self.max_validation_clips = max_validation_clips
        self.shards_in_hand = shards_in_hand
        self.lookahead = lookahead
        self.reading = reading or Reading()
        self.num_workers = num_workers
        self.skipped: dict[tuple[str, str], str] = {}
        """Clips that could not be read so far, by shard and key, and why."""
        self.num_skipped = 0
        """How often a clip was left out; one that is damaged is left out in every epoch."""
        self._start = Place()
        self._handed_out = 0
        self._saved: dict[str, Any] | None = None
        self._plan: TrainingPlan | None = None
        self._sets: list[OpenSet] = []

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002
        """Reads the manifests and checks every clip against the budget."""
        if self._plan is not None:
            return
        self._sets = open_shard_sets(self.shards, self.reading)
        self.null_text = common_null_text(self._sets)
        self.budget = Budget(
            patch=self.patch, tokens_per_batch=self.tokens_per_batch, null_text_tokens=self.null_text.shape[0]
        )
        manifests = [
            WeightedManifest(
                manifest=one.manifest, weight=one.settings.weight, clip_weights=one.settings.read_clip_weights()
            )
            for one in self._sets
        ]
        plan = TrainingPlan(
            manifest=manifests,
            budget=self.budget,
            conditions=self.conditions,
            seed=self.seed,
            shards_in_hand=self.shards_in_hand,
            phases=self.curriculum,
            clips_per_epoch=self.clips_per_epoch,
            lookahead=self.lookahead,
        )
        for one, index in zip(self._sets, plan.indexes, strict=True):
            self.budget.check_index(index)
            self.budget.check_index(ClipIndex.of(one.manifest, "validation"))
        self._plan = plan
        if self._saved is not None:
            self._resume(self._saved)

    @property
    def plan(self) -> TrainingPlan:
        """The order of the training batches; there after `setup`."""
        if self._plan is None:
            raise RuntimeError("call setup() before asking for batches")
        return self._plan

    @property
    def manifest(self) -> Manifest:
        """What the (first) shards folder says about itself; there after `setup`."""
        return self._open_sets()[0].manifest

    def train_dataloader(self) -> DataLoader[PackedBatch]:
        """Batches without end, from the place where training stands."""
        rank, num_ranks = self._ranks()
        self._start, self._handed_out = self._place(), 0
        stream = _TrainingStream(
            plan=self.plan, reader=self._reader(), start=self._start, rank=rank, num_ranks=num_ranks
        )
        return _Loader(stream, self)

    def val_dataloader(self) -> DataLoader[PackedBatch] | list[Any]:
        """The validation split in fixed batches, nothing dropped or given; no loader when there is no such split."""
        rank, num_ranks = self._ranks()
        batches = validation_plan(
            [one.manifest for one in self._open_sets()],
            "validation",
            self.budget,
            max_clips=self.max_validation_clips,
            num_ranks=num_ranks,
        )
        if not batches:
            return []
        return _Loader(_FixedBatches(FixedPlan(batches=batches[rank::num_ranks]), self._reader()), self)

    def on_before_batch_transfer(self, batch: PackedBatch, dataloader_idx: int) -> PackedBatch:  # noqa: ARG002
        """Counts training batches as they go into a step: those a loader has read ahead do not count."""
        if self.trainer is None or self.trainer.training:
            self._handed_out += 1
        return batch

    def on_after_batch_transfer(self, batch: PackedBatch, dataloader_idx: int) -> PackedBatch:  # noqa: ARG002
        """Latents travel to the device as they are stored, and become float32 there."""
        return batch.float()

    def note(self, skipped: Sequence[SkippedClip]) -> None:
        """Counts clips that were left out, and says so the first time that each is."""
        for clip in skipped:
            self.num_skipped += 1
            if (clip.shard, clip.key) not in self.skipped:
                self.skipped[clip.shard, clip.key] = clip.reason
                log.error("left out the clip %r of the shard %s: %s", clip.key, clip.shard, clip.reason)

    def teardown(self, stage: str) -> None:  # noqa: ARG002
        if self.skipped:
            log.error("%d clips could not be read, and were left out %d times", len(self.skipped), self.num_skipped)

    def state_dict(self) -> dict[str, Any]:
        """The place of the next global batch, and what the order of batches follows from. The same on every rank."""
        place = self._place()
        return {
            "seed": self.seed,
            "epoch": place.epoch,
            "segment": place.segment,
            "batch": place.batch,
            "num_segments": self.plan.num_segments(place.epoch),
            "decided_by": self.plan.decided_by(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on at a saved place. Raises ValueError when the seed is another, since the order would be."""
        if state_dict["seed"] != self.seed:
            raise ValueError(
                f"the checkpoint's data seed is {state_dict['seed']}, this run's is {self.seed}: "
                "set the same seed to resume"
            )
        self._saved = state_dict
        if self._plan is not None:
            self._resume(state_dict)

    def _resume(self, saved: dict[str, Any]) -> None:
        """At the very next batch or, when the data or the budget have changed, as far into the epoch as before."""
        self._saved, self._handed_out = None, 0
        place = Place(epoch=saved["epoch"], segment=saved["segment"], batch=saved["batch"])
        different = differing_settings(saved["decided_by"], self.plan.decided_by())
        if different:
            share = saved["segment"] / saved["num_segments"]
            segment = int(share * self.plan.num_segments(place.epoch))
            log.warning(
                "the order of the batches is not that of the checkpoint (%s): going on %.0f %% into epoch %d, where "
                "some clips may come a second time",
                "; ".join(different), 100 * share, place.epoch,
            )  # fmt: skip
            place = Place(epoch=place.epoch, segment=segment)
        self._start = place

    def _place(self) -> Place:
        """Of the next global batch. Remembered, so that the way there is gone once."""
        steps = self._handed_out * self._ranks()[1]
        if steps:
            self._start, self._handed_out = self.plan.advanced(self._start, steps), 0
        return self._start

    def _ranks(self) -> tuple[int, int]:
        """This process's rank, and how many there are."""
        if self.trainer is not None:
            return self.trainer.global_rank, self.trainer.world_size
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1

    def _open_sets(self) -> list[OpenSet]:
        if not self._sets:
            raise RuntimeError("call setup() before asking for batches")
        return self._sets

    def _reader(self) -> ClipReader:
        return ClipReader(
            readers=[ShardReader.of(one) for one in self._open_sets()],
            null_text=self.null_text,
            patch=self.patch,
            reading=self.reading,
        )


class _Loader(DataLoader[PackedBatch]):
    """Passes batches on, and what they lack to the data module."""

    def __init__(self, dataset: _TrainingStream | _FixedBatches, owner: LatentDataModule) -> None:
        num_workers = owner.num_workers if isinstance(dataset, IterableDataset) else 0
        super().__init__(dataset, batch_size=None, num_workers=num_workers, collate_fn=_unchanged)  # type: ignore[arg-type]
        self._owner = owner

    def __iter__(self) -> Iterator[PackedBatch]:  # type: ignore[override]
        delivery: Any
        for delivery in super().__iter__():
            self._owner.note(delivery.skipped)
            yield delivery.batch


def _unchanged(delivery: Delivery) -> Delivery:
    return delivery


class _TrainingStream(IterableDataset[Delivery]):
    """One rank's share of the endless plan; reading processes deal it out among themselves in turn."""

    def __init__(self, *, plan: TrainingPlan, reader: ClipReader, start: Place, rank: int, num_ranks: int) -> None:
        self.plan = plan
        self.reader = reader
        self.start = start
        self.rank, self.num_ranks = rank, num_ranks

    def __iter__(self) -> Iterator[Delivery]:
        worker = get_worker_info()
        number, num_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        first = self.plan.advanced(self.start, self.rank + self.num_ranks * number)
        return self.reader.deliveries(self.plan, self.plan.places_from(first, step=self.num_ranks * num_workers))


class _FixedBatches(Dataset[Delivery]):
    def __init__(self, plan: FixedPlan, reader: ClipReader) -> None:
        self.plan = plan
        self.reader = reader

    def __len__(self) -> int:
        return len(self.plan.batches)

    def __getitem__(self, index: int) -> Delivery:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.reader.delivery(self.plan, Place(batch=index))
