"""Real clips through the codecs and back: what generated clips can be at their best, whoever generates them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from hh_train.data.footage.clip_folder import is_written, write_described_clip
from hh_train.data.footage.files import FootageFile
from hh_train.data.shards.format import read_latent_clips
from hh_train.data.shards.manifest import Manifest
from hh_train.inference.codecs import tokenizers_of
from hh_train.tokenizers import Tokenizers
from hh_train.types import Clip, ClipMetadata, LatentClip

_LATENTS = "latents"


@dataclass(frozen=True, kw_only=True)
class CodecClips:
    """The clips of shards, decoded by the shards' own codecs into a folder.

    Args:
        shards: what `hh-train tokenize` wrote.
        folder: of the decoded clips, `KEY.{mp4,txt,json}`. A clip whose latents have not changed is not decoded again.
    """

    shards: str
    folder: str

    @cached_property
    def manifest(self) -> Manifest:
        return Manifest.load(self.shards)

    @cached_property
    def tokenizers(self) -> Tokenizers:
        return tokenizers_of(self.shards)

    def held_out(self, keys: Collection[str]) -> Iterator[tuple[LatentClip, ClipMetadata]]:
        """The shards' latents of these clips that were not trained on."""
        for split in self.manifest.splits:
            if split != "train":
                yield from ((c, known) for c, known in read_latent_clips(self.shards, split) if c.key in keys)

    def write(self, files: Mapping[str, FootageFile], *, share: Collection[str]) -> dict[str, FootageFile]:
        """Decodes clips and returns the decoded ones as files, in the order of `files`; without those that the shards
        lack, or have no picture of.

        Args:
            files: the real clips by key.
            share: keys of the clips that this process decodes; others see to the rest.
        """
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        found: set[str] = set()
        for latents, metadata in self.held_out(files):
            if latents.video is None:
                continue
            found.add(latents.key)
            digest = self._digest(latents)
            if latents.key in share and not _is_of(folder, latents.key, digest):
                clip = decode(latents, self.tokenizers, frames_per_second=self.manifest.frames_per_second)
                write_described_clip(folder, clip, metadata, record={_LATENTS: digest})
        return {
            key: replace(file, path=folder / f"{key}.mp4", metadata=None, problem=None)
            for key, file in files.items()
            if key in found
        }

    def _digest(self, latents: LatentClip) -> str:
        codecs = (self.tokenizers.video.fingerprint(), self.tokenizers.audio.fingerprint())
        parts = [latent.numpy().tobytes() for latent in (latents.video, latents.audio) if latent is not None]
        return hashlib.sha256(b"\n".join([repr(codecs).encode(), *parts])).hexdigest()[:16]


def decode(latents: LatentClip, tokenizers: Tokenizers, *, frames_per_second: float) -> Clip:
    """Latents to pictures and sound. Raises ValueError for latents without a picture."""
    if latents.video is None:
        raise ValueError(f"{latents.key} has no picture to decode")
    return Clip(
        frames=tokenizers.video.decode(latents.video),
        frames_per_second=frames_per_second,
        waveform=None if latents.audio is None else tokenizers.audio.decode(latents.audio),
        samples_per_second=tokenizers.audio.samples_per_second,
    )


def latent_statistics(latents: LatentClip) -> dict[str, Any]:
    """Mean and spread of each latent, as `generate` writes those of its own."""
    return {
        name: {"mean": float(latent.mean()), "std": float(latent.std())}
        for name, latent in (("video", latents.video), ("audio", latents.audio))
        if latent is not None
    }


def _is_of(folder: Path, key: str, digest: str) -> bool:
    if not is_written(folder, key) or not (folder / f"{key}.mp4").is_file():
        return False
    try:
        return bool(json.loads((folder / f"{key}.json").read_text(encoding="utf-8")).get(_LATENTS) == digest)
    except (ValueError, AttributeError):
        return False
