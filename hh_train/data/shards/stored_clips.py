"""Tokenized clips in tars, found by key and read one by one."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import safetensors

from hh_train.data.shards.format import LATENTS_MEMBER, METADATA_MEMBER, NOTES_KEY, TokenizedClip, latents_from_bytes
from hh_train.types import ClipMetadata

Stretch = tuple[int, int]
"""Where bytes begin in a file, and how many they are."""


@dataclass(frozen=True, kw_only=True)
class StoredClip:
    """Where a clip lies."""

    path: Path
    latents: Stretch
    metadata: Stretch


class StoredClips:
    """The clips of shards in their order. Headers are read at once, latents when they are asked for.

    What comes after damage in a tar is not there. Of two clips of one key the first counts.
    """

    def __init__(self, paths: Iterable[Path] = ()) -> None:
        self._clips: dict[str, StoredClip] = {}
        for path in paths:
            for key, clip in clips_of(path):
                self._clips.setdefault(key, clip)

    def __contains__(self, key: object) -> bool:
        return key in self._clips

    def __iter__(self) -> Iterator[str]:
        return iter(self._clips)

    def __len__(self) -> int:
        return len(self._clips)

    def path(self, key: str) -> Path:
        """The tar that holds the clip."""
        return self._clips[key].path

    def discard(self, key: str) -> None:
        """Forgets a clip, if it is there; its tar stays."""
        self._clips.pop(key, None)

    def take_from(self, other: StoredClips, key: str) -> None:
        """Knows a clip that `other` knows, unless it knows one of that key already."""
        self._clips.setdefault(key, other._clips[key])

    def read(self, key: str) -> TokenizedClip:
        """The clip, latents as they are stored. Raises ValueError when it is damaged."""
        clip = self._clips[key]
        with clip.path.open("rb") as file:
            latents, metadata = (_read(file, *stretch) for stretch in (clip.latents, clip.metadata))
        try:
            fields = json.loads(metadata)
            return TokenizedClip(
                latents=latents_from_bytes(key, latents),
                metadata=ClipMetadata.from_json(fields),
                notes=tuple(fields.get(NOTES_KEY, ())),
            )
        except (ValueError, KeyError, safetensors.SafetensorError) as error:
            raise ValueError(f"{clip.path} is damaged ({error}): delete it and tokenize again") from error


def _read(file: BinaryIO, start: int, length: int) -> bytes:
    file.seek(start)
    return file.read(length)


def clips_of(path: Path) -> Iterator[tuple[str, StoredClip]]:
    """The clips of a tar, with their keys, up to the first damage."""
    found: dict[str, dict[str, Stretch]] = {}
    size = path.stat().st_size
    with suppress(tarfile.TarError, EOFError), tarfile.open(path, "r:") as tar:
        for member in tar:
            key, _, kind = member.name.partition(".")
            if member.offset_data + member.size > size:
                return
            found.setdefault(key, {})[kind] = (member.offset_data, member.size)
            if found[key].keys() >= {LATENTS_MEMBER, METADATA_MEMBER}:
                parts = found.pop(key)
                yield key, StoredClip(path=path, latents=parts[LATENTS_MEMBER], metadata=parts[METADATA_MEMBER])
