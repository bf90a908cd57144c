"""The shard sets of a training run: opened, checked against each other and against what their manifests say."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hh_train.data.loading.cache import DiskCache
from hh_train.data.loading.clip_index import digest_of
from hh_train.data.loading.storage import Storage
from hh_train.data.packing import PATCH_ORDER
from hh_train.data.shards.format import read_manifest, read_null_text
from hh_train.data.shards.manifest import MANIFEST_FILE, Manifest

log = logging.getLogger(__name__)

_MAX_TOLD = 5


@dataclass(frozen=True, kw_only=True)
class ShardSet:
    """One folder of latent shards, among others that are mixed with it.

    Args:
        path: what `hh-train tokenize` wrote: a folder, or where it was copied to, such as s3://bucket/folder or
            https://host/folder.
        weight: the set's share of the clips, over the sum of the weights of all sets. Give one to each set, or to
            none: then every set is gone through once an epoch.
        clip_weights: a JSON file of keys and numbers: how often a clip comes in a pass over the set. 1 is usual, 0.25
            is every fourth time, 0 is never. Keys that it does not name have 1.
        storage_options: of the fsspec file system, such as `endpoint_url` or `anon` for S3.
    """

    path: str
    weight: float | None = None
    clip_weights: str | None = None
    storage_options: Mapping[str, Any] = field(default_factory=dict)

    def read_clip_weights(self) -> dict[str, float]:
        """Raises ValueError when the file is not there, or holds anything but numbers by key."""
        if self.clip_weights is None:
            return {}
        try:
            found = json.loads(Path(self.clip_weights).expanduser().read_bytes())
            return {str(key): float(weight) for key, weight in found.items()}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"cannot read the clip weights {self.clip_weights} ({error}); wanted a JSON file such as "
                '{"a key": 2.0, "another": 0.5}'
            ) from error


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How shards are read.

    Args:
        cache_folder: where copies of remote shards are kept, for all processes of a machine; None keeps none and reads
            the bytes of each clip from afar whenever it comes.
        cache_gigabytes: the folder never grows beyond this.
        retries: further tries after a read that failed.
        threads: that read ahead, in each worker; None is 8 for remote shards and 0, reading when needed, for disks.
        prefetch_batches: whose clips are read ahead by the threads.
    """

    cache_folder: str | None = None
    cache_gigabytes: float = 100.0
    retries: int = 5
    threads: int | None = None
    prefetch_batches: int = 4

    def __post_init__(self) -> None:
        if self.retries < 0 or self.cache_gigabytes <= 0 or self.prefetch_batches < 1 or (self.threads or 0) < 0:
            raise ValueError(
                f"got retries {self.retries}, cache_gigabytes {self.cache_gigabytes}, prefetch_batches "
                f"{self.prefetch_batches}, threads {self.threads}; wanted numbers from 0 on, a cache of some size and "
                "1 batch or more"
            )


@dataclass(frozen=True, kw_only=True)
class OpenSet:
    """A shard set that can be read."""

    settings: ShardSet
    storage: Storage
    manifest: Manifest
    cache: DiskCache | None


def open_shard_sets(shards: str | ShardSet | Sequence[str | ShardSet], reading: Reading) -> list[OpenSet]:
    """Reads the manifests.

    Raises:
        ValueError: there is no set, one has not been finished, lacks shards, or does not go with the first: every
            field that differs is named.
    """
    given = [shards] if isinstance(shards, str | ShardSet) else list(shards)
    settings = [ShardSet(path=one) if isinstance(one, str) else one for one in given]
    if not settings:
        raise ValueError("got no shards; wanted a folder that `hh-train tokenize` wrote, or several")
    opened = [_opened(one, reading) for one in settings]
    for other in opened[1:]:
        _check_alike(opened[0], other)
    return opened


def common_null_text(sets: Sequence[OpenSet]) -> Float[Tensor, "Nt C"]:
    """The features that stand for 'no text' in all sets. Raises ValueError when they differ."""
    found = [read_null_text(one.storage) for one in sets]
    for one, features in zip(sets, found, strict=True):
        if features.shape != found[0].shape or not torch.equal(features, found[0]):
            raise ValueError(
                f"the null prompt of {one.storage} is not that of {sets[0].storage}: tokenize both with one null prompt"
            )
    return found[0]


def _opened(settings: ShardSet, reading: Reading) -> OpenSet:
    storage = Storage(settings.path, options=settings.storage_options, retries=reading.retries)
    manifest = read_manifest(storage)
    if manifest.patch_order != PATCH_ORDER:
        raise ValueError(
            f"{storage} differs in patch_order: {manifest.patch_order!r} there, {PATCH_ORDER!r} here; tokenize the "
            "footage again, or train with the version of hh_train that wrote it"
        )
    if not manifest.samples_of("train"):
        raise ValueError(f"{storage} has no training clips: tokenize footage that has some")
    _check_files(storage, manifest)
    cache = None
    if not storage.is_local and reading.cache_folder is not None:
        cache = DiskCache(
            reading.cache_folder,
            max_bytes=round(reading.cache_gigabytes * 1e9),
            version=f"{storage}/{_content(manifest)}",
        )
    return OpenSet(settings=settings, storage=storage, manifest=manifest, cache=cache)


def _content(manifest: Manifest) -> int:
    """Changes with what is in the shards."""
    shards = [(shard.name, shard.num_bytes, shard.video, shard.audio) for shard in manifest.shards]
    return digest_of(manifest.fingerprints(), shards)


def _check_files(storage: Storage, manifest: Manifest) -> None:
    """A shard that is not there is an error now, not in the middle of a run; one that has changed loses clips."""
    sizes = storage.sizes()
    if sizes is None:
        return  # the first read of a missing shard will say so
    shards = [shard for shard in manifest.shards if shard.samples]
    if missing := [shard.name for shard in shards if shard.name not in sizes]:
        raise ValueError(
            f"{storage} lacks {len(missing)} of the {len(shards)} shards of its {MANIFEST_FILE}: "
            f"{', '.join(missing[:_MAX_TOLD])}{' ...' if len(missing) > _MAX_TOLD else ''}; copy them there, or "
            "tokenize again with overwrite=true"
        )
    for shard in shards:
        if sizes[shard.name] != shard.num_bytes:
            log.warning(
                "the shard %s of %s has %d bytes, not %d as it was written: clips that cannot be read will be skipped",
                shard.name, storage, sizes[shard.name], shard.num_bytes,
            )  # fmt: skip


def _check_alike(first: OpenSet, other: OpenSet) -> None:
    other.manifest.require_compatible(first.manifest.fingerprints(), owner=f"the shard set {first.storage}")
    for name in ("frames_per_second", "samples_per_second"):
        ours, theirs = getattr(first.manifest, name), getattr(other.manifest, name)
        if ours != theirs:
            raise ValueError(
                f"the shard sets differ in {name}: {ours:g} in {first.storage}, {theirs:g} in {other.storage}; "
                "tokenize them alike"
            )
