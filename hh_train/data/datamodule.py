"""Latent shards as packed batches for training and validation, with exact resume."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from hh_train.data.manifest import Manifest
from hh_train.data.packing import pack
from hh_train.data.plan import Budget, Conditions, PlannedClip, TrainingPlan, validation_plan
from hh_train.data.shards import in_float32, read_null_text, read_shard
from hh_train.types import LatentClip, PackedBatch


class LatentDataModule(LightningDataModule):
    """Training batches without end, validation batches in a fixed order, from a folder of latent shards.

    The sequence of global batches is a function of the seed alone, and every epoch holds every clip but the few that do
    not fill a batch. Each step takes one batch for every rank, so ranks see different clips and never run dry, and a
    run that is resumed, on as many ranks or another number, goes on with the very next batch. The samplers that
    Lightning would add are not wanted: `Trainer(use_distributed_sampler=False)`.

    Args:
        shards: the folder that `hh-train tokenize` wrote.
        patch: latents per video token along time, height and width.
        tokens_per_batch: budget of one rank's batch; clips are packed until the next would not fit.
        seed: of the order and of the draws below.
        text_dropout: share of training clips that get the null prompt.
        image_to_video_share: share of training clips whose first latent frame is given.
        audio_to_video_share: share of training clips whose sound is given.
        sound_only_share: share of training clips that are trained without their picture.
        max_validation_clips: the validation loader takes the first so many; None takes all.
        shards_in_hand: shards whose clips are mixed with one another.
        cache_megabytes: shards are kept in memory up to this size, those in hand in any case, in each worker.
        num_workers: reading processes; 0 reads in the training process.

    Raises:
        ValueError: in `setup`, when there are no shards or a clip does not fit.
    """

    def __init__(
        self,
        *,
        shards: str,
        patch: tuple[int, int, int],
        tokens_per_batch: int,
        seed: int = 0,
        text_dropout: float = 0.1,
        image_to_video_share: float = 0.1,
        audio_to_video_share: float = 0.1,
        sound_only_share: float = 0.0,
        max_validation_clips: int | None = None,
        shards_in_hand: int = 8,
        cache_megabytes: float = 2048.0,
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
        self.max_validation_clips = max_validation_clips
        self.shards_in_hand = shards_in_hand
        self.cache_bytes = round(cache_megabytes * 2**20)
        self.num_workers = num_workers
        self._epoch = 0
        self._index = 0
        self._handed_out = 0
        self._plan: TrainingPlan | None = None

    def setup(self, stage: str | None = None) -> None:  # noqa: ARG002
        """Reads the manifest and checks every clip against the budget."""
        if self._plan is not None:
            return
        manifest = Manifest.load(self.shards)
        if not manifest.samples_of("train"):
            raise ValueError(f"{self.shards} has no training clips: tokenize footage that has some")
        self.null_text = read_null_text(self.shards)
        self.budget = Budget(
            patch=self.patch, tokens_per_batch=self.tokens_per_batch, null_text_tokens=self.null_text.shape[0]
        )
        for split in ("train", "validation"):
            self.budget.check(manifest.samples_of(split))
        self._plan = TrainingPlan(
            manifest=manifest,
            budget=self.budget,
            conditions=self.conditions,
            seed=self.seed,
            shards_in_hand=self.shards_in_hand,
        )

    @property
    def plan(self) -> TrainingPlan:
        """The order of the training batches; there after `setup`."""
        if self._plan is None:
            raise RuntimeError("call setup() before asking for batches")
        return self._plan

    @property
    def manifest(self) -> Manifest:
        """What the shards folder says about itself; there after `setup`."""
        return self.plan.manifest

    def train_dataloader(self) -> DataLoader[PackedBatch]:
        """Batches without end, from the place where training stands."""
        rank, num_ranks = self._ranks()
        epoch, index = self._place()
        stream = _TrainingStream(
            plan=self.plan, source=self._source(), epoch=epoch, index=index, rank=rank, num_ranks=num_ranks
        )
        self._epoch, self._index, self._handed_out = epoch, index, 0
        return DataLoader(stream, batch_size=None, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader[PackedBatch] | list[Any]:
        """The validation split in fixed batches, nothing dropped or given; no loader when there is no such split."""
        rank, num_ranks = self._ranks()
        batches = validation_plan(
            self.manifest, "validation", self.budget, max_clips=self.max_validation_clips, num_ranks=num_ranks
        )
        if not batches:
            return []
        return DataLoader(_FixedBatches(batches[rank::num_ranks], self._source()), batch_size=None)

    def on_before_batch_transfer(self, batch: PackedBatch, dataloader_idx: int) -> PackedBatch:  # noqa: ARG002
        """Counts training batches as they go into a step: those a loader has read ahead do not count."""
        if self.trainer is None or self.trainer.training:
            self._handed_out += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The place of the next global batch. The same on every rank."""
        epoch, index = self._place()
        return {"seed": self.seed, "epoch": epoch, "index": index}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on at a saved place. Raises ValueError when the seed is another, since the order would be."""
        if state_dict["seed"] != self.seed:
            raise ValueError(
                f"the checkpoint's data seed is {state_dict['seed']}, this run's is {self.seed}: "
                "set the same seed to resume"
            )
        self._epoch, self._index, self._handed_out = state_dict["epoch"], state_dict["index"], 0

    def _place(self) -> tuple[int, int]:
        """Epoch and index of the next global batch."""
        steps = self._handed_out * self._ranks()[1]
        if not steps:
            return self._epoch, self._index
        epoch, index = self._epoch, self._index + steps
        while index >= (length := len(self.plan.epoch(epoch))):
            epoch, index = epoch + 1, index - length
        return epoch, index

    def _ranks(self) -> tuple[int, int]:
        """This process's rank, and how many there are."""
        if self.trainer is not None:
            return self.trainer.global_rank, self.trainer.world_size
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1

    def _source(self) -> _ClipSource:
        return _ClipSource(
            folder=Path(self.shards),
            null_text=self.null_text,
            patch=self.patch,
            cache_bytes=self.cache_bytes,
            min_shards=self.shards_in_hand,
        )


class _ClipSource:
    """Builds planned batches from the shards, keeping recently used shards in memory."""

    def __init__(
        self, *, folder: Path, null_text: Tensor, patch: tuple[int, int, int], cache_bytes: int, min_shards: int
    ) -> None:
        self.folder = folder
        self.null_text = null_text
        self.patch = patch
        self.cache_bytes = cache_bytes
        self.min_shards = min_shards
        self._cache: OrderedDict[str, dict[str, LatentClip]] = OrderedDict()
        self._sizes: dict[str, int] = {}

    def batch(self, planned: list[PlannedClip]) -> PackedBatch:
        return pack([self._clip(clip) for clip in planned], patch=self.patch)

    def _clip(self, planned: PlannedClip) -> LatentClip:
        stored = in_float32(self._shard(planned.shard)[planned.sample.key])
        return replace(
            stored,
            video=None if planned.drops_video else stored.video,
            text=self.null_text if planned.drops_text else stored.text,
            num_given_frames=planned.num_given_frames,
            audio_is_given=planned.audio_is_given,
        )

    def _shard(self, name: str) -> dict[str, LatentClip]:
        if name in self._cache:
            self._cache.move_to_end(name)
            return self._cache[name]
        path = self.folder / name
        self._cache[name] = {clip.key: clip for clip, _ in read_shard(path)}
        self._sizes[name] = path.stat().st_size
        while (
            len(self._cache) > self.min_shards and sum(self._sizes[other] for other in self._cache) > self.cache_bytes
        ):
            self._cache.popitem(last=False)
        return self._cache[name]


class _TrainingStream(IterableDataset[PackedBatch]):
    """One rank's share of the endless plan; reading processes deal it out among themselves in turn."""

    def __init__(
        self, *, plan: TrainingPlan, source: _ClipSource, epoch: int, index: int, rank: int, num_ranks: int
    ) -> None:
        self.plan = plan
        self.source = source
        self.epoch, self.index = epoch, index
        self.rank, self.num_ranks = rank, num_ranks

    def __iter__(self) -> Iterator[PackedBatch]:
        worker = get_worker_info()
        number, num_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        first = self.rank + self.num_ranks * number
        mine = islice(self.plan.batches_from(self.epoch, self.index), first, None, self.num_ranks * num_workers)
        return (self.source.batch(batch) for batch in mine)


class _FixedBatches(torch.utils.data.Dataset[PackedBatch]):
    def __init__(self, batches: list[list[PlannedClip]], source: _ClipSource) -> None:
        self.batches = batches
        self.source = source

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> PackedBatch:
        if not 0 <= index < len(self.batches):
            raise IndexError(index)
        return self.source.batch(self.batches[index])
