"""What a shards folder says about itself: contents, the codecs it was made with, statistics, clips left out."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hh_train.data.footage.files import DroppedClip
from hh_train.data.packing import PATCH_ORDER

MANIFEST_FILE = "manifest.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class SampleRecord:
    """One tokenized clip: its name and the shapes of its latents. A modality that it does not have is None."""

    key: str
    video: tuple[int, int, int] | None
    """Latent frames, rows, columns."""
    audio: int | None
    text: int
    offset: int | None = None
    """Where in the shard the bytes of its latents begin; None when that was not written down."""
    num_bytes: int | None = None
    """Of its latents in the shard."""
    checksum: int | None = None
    """Of these bytes; None when that was not written down."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Sums over all values of one modality, from which mean and spread follow. They add up over shards."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: Tensor | None, dtype: torch.dtype) -> Moments:
        """Of the values as they are after rounding to `dtype`."""
        if values is None:
            return cls()
        exact = values.to(dtype).to(torch.float64)
        return cls(count=exact.numel(), total=float(exact.sum()), squares=float(exact.square().sum()))

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            count=self.count + other.count, total=self.total + other.total, squares=self.squares + other.squares
        )

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else math.nan

    @property
    def std(self) -> float:
        return math.sqrt(max(0.0, self.squares / self.count - self.mean**2)) if self.count else math.nan


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """One finished shard file: the clips in it in their order, and those left out on the way."""

    name: str
    split: str
    num_bytes: int
    samples: tuple[SampleRecord, ...]
    dropped: tuple[DroppedClip, ...]
    video: Moments
    audio: Moments
    num_silent: int = 0
    """Clips without a sound track: kept, as pictures and text."""
    notes: Mapping[str, int] = field(default_factory=dict)
    """Clips of which there is something to say, by what it is."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ShardRecord:
        samples = (SampleRecord(**{**s, "video": s["video"] and tuple(s["video"])}) for s in fields["samples"])
        parts = {
            "samples": tuple(samples),
            "dropped": tuple(DroppedClip(**d) for d in fields["dropped"]),
            "video": Moments(**fields["video"]),
            "audio": Moments(**fields["audio"]),
        }
        return cls(**{**fields, **parts})


@dataclass(frozen=True, kw_only=True)
class TokenizerRecord:
    """Which codec made the latents of a modality. Equal fingerprints, equal latents."""

    tokenizer_class: str
    num_channels: int
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The contents of a shards folder. `save` writes what `load` reads."""

    settings: Mapping[str, Any]
    """Everything that decides the contents; a run with other settings refuses to go on with these shards."""
    frames_per_second: float
    samples_per_second: int
    tokenizers: Mapping[str, TokenizerRecord]
    """By modality: video, audio, text."""
    shards: tuple[ShardRecord, ...]
    patch_order: str = PATCH_ORDER
    """In which training is to cut the latents, which are stored whole; see `hh_train.data.packing`."""
    reconstruction: Mapping[str, float] = field(default_factory=dict)
    """Measures of the codecs on held-out clips."""
    accounting: Mapping[str, Any] = field(default_factory=dict)
    """Clips by size and length, and those left out by stage and reason; see `hh_train.data.selection.accounting`."""

    @classmethod
    def load(cls, folder: str | Path) -> Manifest:
        """Reads `manifest.json` in a shards folder.

        Raises:
            ValueError: there is none (the tokenize stage has not finished), or its schema is another.
        """
        path = Path(folder) / MANIFEST_FILE
        if not path.is_file():
            raise ValueError(
                f"no {MANIFEST_FILE} in {folder}: run `hh-train tokenize` to its end, or change the shards' folder"
            )
        return cls.parse(path.read_bytes(), source=str(path))

    @classmethod
    def parse(cls, text: str | bytes, *, source: str) -> Manifest:
        """Reads the contents of a `manifest.json`. Raises ValueError, naming `source`, when its schema is another."""
        fields = json.loads(text)
        version = fields.pop("schema_version", None)
        if version != SCHEMA_VERSION:
            raise ValueError(
                f"{source} has schema version {version}, wanted {SCHEMA_VERSION}: tokenize again with overwrite=true"
            )
        fields.pop("statistics")
        fields["tokenizers"] = {name: TokenizerRecord(**record) for name, record in fields["tokenizers"].items()}
        fields["shards"] = tuple(ShardRecord.from_json(record) for record in fields["shards"])
        return cls(**fields)

    def save(self, folder: str | Path) -> None:
        """Writes the manifest; it appears complete or not at all."""
        fields = {"schema_version": SCHEMA_VERSION, "statistics": self.statistics(), **asdict(self)}
        write_json(Path(folder) / MANIFEST_FILE, fields)

    @property
    def dropped(self) -> tuple[DroppedClip, ...]:
        return tuple(clip for shard in self.shards for clip in shard.dropped)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have clips."""
        return tuple(dict.fromkeys(shard.split for shard in self.shards if shard.samples))

    def shards_of(self, split: str) -> tuple[ShardRecord, ...]:
        """The shards of a split that hold clips, in order."""
        return tuple(shard for shard in self.shards if shard.split == split and shard.samples)

    def samples_of(self, split: str) -> tuple[SampleRecord, ...]:
        return tuple(sample for shard in self.shards_of(split) for sample in shard.samples)

    def statistics(self) -> dict[str, dict[str, dict[str, float]]]:
        """Mean and standard deviation of the latents, by split and modality."""
        found: dict[str, dict[str, dict[str, float]]] = {}
        for split in self.splits:
            shards = self.shards_of(split)
            sums = {
                "video": sum((shard.video for shard in shards), Moments()),
                "audio": sum((shard.audio for shard in shards), Moments()),
            }
            found[split] = {name: {"mean": m.mean, "std": m.std} for name, m in sums.items() if m.count}
        return found

    @property
    def channels(self) -> dict[str, int]:
        """Latent channels by modality: what a model has to take in."""
        return {name: record.num_channels for name, record in self.tokenizers.items()}

    def fingerprints(self) -> dict[str, str]:
        """The codecs' fingerprints by modality, as a checkpoint should record them."""
        return {name: record.fingerprint for name, record in self.tokenizers.items()}

    def require_compatible(self, fingerprints: Mapping[str, str], *, owner: str) -> None:
        """Checks that `owner` (a checkpoint, a bundle, tokenizers in hand) goes with these latents.

        Raises:
            ValueError: a codec differs, naming every one that does.
        """
        ours = self.fingerprints()
        different = [
            f"{name} ({fingerprint} there, {ours.get(name, 'none')} here)"
            for name, fingerprint in fingerprints.items()
            if ours.get(name) != fingerprint
        ]
        if different:
            raise ValueError(
                f"{owner} goes with other tokenizers than these shards: {', '.join(different)}; "
                "use the shards it was made with, or tokenize the footage with its tokenizers"
            )


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Writes the file under a temporary name, then renames it."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(fields, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def differing_settings(saved: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The fields in which two nested settings differ, each with both values."""
    found = []
    for name in sorted({*saved, *wanted}):
        ours, theirs = wanted.get(name), saved.get(name)
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            found += differing_settings(theirs, ours, f"{prefix}{name}.")
        elif ours != theirs:
            found.append(f"{prefix}{name}: {theirs!r} there, {ours!r} wanted")
    return found
