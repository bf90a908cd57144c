"""Which clips go into which batch: a pure function of seed and epoch, so that any batch is found without reading."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from hh_train.data.manifest import Manifest, SampleRecord


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
class Conditions:
    """How often a training clip is changed: each is drawn from (seed, epoch, clip) alone.

    Args:
        text_dropout: share of clips that get the null prompt.
        image_to_video_share: share of clips whose first latent frame is given.
        audio_to_video_share: share of clips whose sound is given.
        sound_only_share: share of clips that are trained without their picture, at a fraction of its tokens.
    """

    text_dropout: float
    image_to_video_share: float
    audio_to_video_share: float
    sound_only_share: float = 0.0

    def __post_init__(self) -> None:
        for name, share in vars(self).items():
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"got {name} {share}; wanted a share from 0 to 1")

    def draw(self, shard: str, sample: SampleRecord, *, seed: int, epoch: int) -> PlannedClip:
        """A clip keeps something to generate: a single latent frame is not given, nor sound without a picture."""
        digest = hashlib.blake2b(f"{seed}/{epoch}/{sample.key}".encode(), digest_size=32).digest()
        text, image, sound, alone = (int.from_bytes(digest[i : i + 8], "big") / 2**64 for i in (0, 8, 16, 24))
        drops_video = sample.audio is not None and alone < self.sound_only_share
        is_seen = sample.video is not None and not drops_video
        has_motion = is_seen and sample.video is not None and sample.video[0] > 1
        return PlannedClip(
            shard=shard,
            sample=sample,
            drops_text=text < self.text_dropout,
            num_given_frames=int(has_motion and image < self.image_to_video_share),
            audio_is_given=is_seen and sample.audio is not None and sound < self.audio_to_video_share,
            drops_video=drops_video,
        )


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """The endless sequence of training batches, an epoch at a time.

    Shards come in random order, in groups of `shards_in_hand`; the clips of a group are mixed. What is left at the end
    of an epoch and does not fill a batch waits for another epoch, since every epoch has another order.
    """

    manifest: Manifest
    budget: Budget
    conditions: Conditions
    seed: int
    shards_in_hand: int

    def epoch(self, epoch: int) -> list[list[PlannedClip]]:
        """All batches of an epoch; one at the least."""
        generator = torch.Generator().manual_seed(
            int.from_bytes(hashlib.blake2b(f"{self.seed}/{epoch}".encode(), digest_size=7).digest())
        )
        shards = self.manifest.shards_of("train")
        order = torch.randperm(len(shards), generator=generator).tolist()
        clips: list[PlannedClip] = []
        for start in range(0, len(order), self.shards_in_hand):
            group = [
                self.conditions.draw(shards[index].name, sample, seed=self.seed, epoch=epoch)
                for index in order[start : start + self.shards_in_hand]
                for sample in shards[index].samples
            ]
            clips += [group[index] for index in torch.randperm(len(group), generator=generator).tolist()]
        batches = list(self.budget.batches(clips))
        return batches[:-1] if len(batches) > 1 else batches

    def batches_from(self, epoch: int, index: int) -> Iterator[list[PlannedClip]]:
        """Batches from a place on, without end."""
        while True:
            yield from self.epoch(epoch)[index:]
            epoch, index = epoch + 1, 0


def validation_plan(
    manifest: Manifest, split: str, budget: Budget, *, max_clips: int | None, num_ranks: int
) -> list[list[PlannedClip]]:
    """The batches of a held-out split, always the same, as many for each rank.

    To get there, batches are halved; only where there are fewer clips than ranks does a batch come twice.
    """
    clips = [
        PlannedClip(shard=shard.name, sample=sample) for shard in manifest.shards_of(split) for sample in shard.samples
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
