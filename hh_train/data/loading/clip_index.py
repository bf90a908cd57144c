"""The clips of a split as columns of numbers, from which plans are computed without reading a shard."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hh_train.data.shards.manifest import Manifest, SampleRecord

_GOLDEN, _FIRST, _SECOND = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_ABSENT = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipColumns:
    """A row for each clip: all that plans depend on."""

    grid: NDArray[np.int32]
    """[clips, 3]: latent frames, rows, columns; zeros without video."""
    audio: NDArray[np.int32]
    """Latents; -1 without sound."""
    text: NDArray[np.int32]
    hash: NDArray[np.uint64]
    """64 bits of a digest of the key: what random choices depend on."""

    def __len__(self) -> int:
        return len(self.hash)

    def take(self, rows: NDArray[np.int64]) -> ClipColumns:
        return ClipColumns(**{name: column[rows] for name, column in vars(self).items()})

    @classmethod
    def concatenate(cls, parts: Sequence[ClipColumns]) -> ClipColumns:
        if len(parts) == 1:
            return parts[0]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])})


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipIndex:
    """A row for each clip, in the order of the shards: about 80 bytes and the clip's name."""

    shards: tuple[str, ...]
    columns: ClipColumns
    shard: NDArray[np.int32]
    """Number of the clip's shard."""
    offset: NDArray[np.int64]
    """Where in the shard the clip's latents begin; -1 when not known."""
    num_bytes: NDArray[np.int64]
    checksum: NDArray[np.uint64]
    """Of these bytes; 0 when not known."""
    names: bytes = field(repr=False)
    """The keys, one after the other in UTF-8."""
    name_ends: NDArray[np.int64]

    @classmethod
    def of(cls, manifest: Manifest, split: str) -> ClipIndex:
        shards = manifest.shards_of(split)
        samples = [sample for shard in shards for sample in shard.samples]
        keys = [sample.key.encode() for sample in samples]

        def column(values: Sequence[Any], dtype: Any) -> NDArray[Any]:
            return np.array(values, dtype=dtype)

        return cls(
            shards=tuple(shard.name for shard in shards),
            shard=np.repeat(np.arange(len(shards), dtype=np.int32), [len(shard.samples) for shard in shards]),
            columns=ClipColumns(
                grid=column([sample.video or (0, 0, 0) for sample in samples], np.int32).reshape(-1, 3),
                audio=column([_ABSENT if s.audio is None else s.audio for s in samples], np.int32),
                text=column([s.text for s in samples], np.int32),
                hash=column([digest_of(key) for key in keys], np.uint64),
            ),
            offset=column([_ABSENT if s.offset is None else s.offset for s in samples], np.int64),
            num_bytes=column([_ABSENT if s.num_bytes is None else s.num_bytes for s in samples], np.int64),
            checksum=column([s.checksum or 0 for s in samples], np.uint64),
            names=b"".join(keys),
            name_ends=np.cumsum([len(key) for key in keys], dtype=np.int64),
        )

    def __len__(self) -> int:
        return len(self.shard)

    def key(self, clip: int) -> str:
        start = int(self.name_ends[clip - 1]) if clip else 0
        return self.names[start : int(self.name_ends[clip])].decode()

    def keys_in_order(self) -> list[str]:
        return [self.key(clip) for clip in range(len(self))]

    def records(self, clips: Sequence[int]) -> list[SampleRecord]:
        """Clips as the manifest has them."""
        rows = list(clips)
        columns = (self.columns.grid, self.columns.audio, self.columns.text, self.offset, self.num_bytes, self.checksum)
        return [
            SampleRecord(
                key=self.key(clip),
                video=(grid[0], grid[1], grid[2]) if grid[0] else None,
                audio=None if audio == _ABSENT else audio,
                text=text,
                offset=None if offset == _ABSENT else offset,
                num_bytes=None if num_bytes == _ABSENT else num_bytes,
                checksum=checksum or None,
            )
            for clip, grid, audio, text, offset, num_bytes, checksum in zip(
                rows, *(column[rows].tolist() for column in columns), strict=True
            )
        ]

    def digest(self) -> str:
        """Changes when clips come, go, move to another shard or change in size."""
        found = hashlib.blake2b(repr(self.shards).encode(), digest_size=8)
        for column in (self.shard, *vars(self.columns).values()):
            found.update(column.tobytes())
        return found.hexdigest()


def digest_of(*parts: object) -> int:
    """64 bits that stand for the parts, on any machine."""
    text = parts[0] if isinstance(parts[0], bytes) else "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def scrambled(values: NDArray[np.uint64], *parts: object) -> NDArray[np.uint64]:
    """Random-looking bits for each value, others for other parts: the finalizer of the SplitMix64 generator.

    Integer arithmetic alone, so that an order drawn today is the order of every later version of NumPy.
    """
    bits = (values ^ np.uint64(digest_of(*parts))) + _GOLDEN
    bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
    bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
    return bits ^ (bits >> np.uint64(31))


def uniform(values: NDArray[np.uint64], *parts: object) -> NDArray[np.float64]:
    """`scrambled` as numbers in [0, 1)."""
    return (scrambled(values, *parts) >> np.uint64(11)).astype(np.float64) * 2.0**-53
