"""The format of latent shards: webdataset tars of clips, and the features of the null prompt beside them."""

from __future__ import annotations

import functools
import json
import math
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BufferedReader, BytesIO
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
import webdataset
from jaxtyping import Float
from torch import Tensor
from webdataset.tariterators import group_by_keys, tar_file_expander

from hh_train.data.loading.storage import Storage
from hh_train.data.shards.manifest import MANIFEST_FILE, Manifest, SampleRecord, ShardRecord
from hh_train.types import ClipMetadata, LatentClip

LATENTS_MEMBER = "latents.safetensors"
METADATA_MEMBER = "json"
NOTES_KEY = "_notes"
NULL_FILE = "null.safetensors"
BLOCK = tarfile.BLOCKSIZE
"""Members of a tar begin and end at multiples of so many bytes."""
STORED_DTYPE = torch.float16
"""Rounding to 11 bits moves a latent of spread 1 by about 2e-4, at half the size of float32."""
_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
_WORD_BYTES = 8
_LENGTH_BYTES = 8
"""At the start of a safetensors file: how long its header is."""


@dataclass(frozen=True, kw_only=True)
class TokenizedClip:
    """What the shard writer takes: latents with what is known about the clip."""

    latents: LatentClip
    metadata: ClipMetadata
    notes: tuple[str, ...] = ()
    """What is to be counted of clips like this, each to be read after `<number> clips`."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """Where the latents of a clip lie in their shard, in bytes."""

    offset: int
    num_bytes: int
    checksum: int | None = None


class ShardWriter:
    """A tar that grows on disk, beside its place or at `grows_at`, until it is closed.

    Headers carry no time and no user, so the same clips give the same bytes.
    """

    def __init__(self, path: Path, *, grows_at: Path | None = None) -> None:
        self._path = path
        self._partial = grows_at or path.with_name(f".{path.name}.partial")
        self._file = self._partial.open("wb")
        self._tar = webdataset.TarWriter(self._file, user="", group="", mtime=0, encoder=False, format="PAX_FORMAT")

    @property
    def num_bytes(self) -> int:
        return self._file.tell()

    def add(self, clip: TokenizedClip) -> Span:
        """Says where in the shard the latents lie. Raises ValueError when a latent cannot be stored."""
        payload = latents_to_bytes(clip.latents)
        notes = {NOTES_KEY: clip.notes} if clip.notes else {}
        metadata = json.dumps({**clip.metadata.to_json(), **notes}, ensure_ascii=False).encode()
        self._tar.write({"__key__": clip.latents.key, LATENTS_MEMBER: payload, METADATA_MEMBER: metadata})
        end: int = self._tar.tarstream.offset  # the members are written in the order of their names, latents last
        start = end - -(-len(payload) // BLOCK) * BLOCK
        return Span(offset=start, num_bytes=len(payload), checksum=checksum_of(payload))

    def close(self) -> None:
        """Ends the tar, which appears under its name."""
        self._tar.close()
        self._file.close()
        self._partial.replace(self._path)

    def discard(self) -> None:
        """Leaves nothing behind."""
        self._file.close()
        self._partial.unlink()


def sample_record(clip: LatentClip, span: Span | None = None) -> SampleRecord:
    """The shapes of a clip's latents, and where they lie."""
    return SampleRecord(
        key=clip.key,
        video=None if clip.video is None else (clip.video.shape[1], clip.video.shape[2], clip.video.shape[3]),
        audio=None if clip.audio is None else clip.audio.shape[0],
        text=clip.text.shape[0],
        offset=None if span is None else span.offset,
        num_bytes=None if span is None else span.num_bytes,
        checksum=None if span is None else span.checksum,
    )


def checksum_of(payload: bytes | bytearray | memoryview) -> int:
    """The sum of the 64-bit words: tells damage from what was written, at the speed of memory as no digest does."""
    words, rest = divmod(len(payload), _WORD_BYTES)
    total = np.add.reduce(np.frombuffer(payload, np.uint64, count=words))
    return (int(total) + int.from_bytes(payload[len(payload) - rest :], "little")) % 2**64


def latents_to_bytes(clip: LatentClip) -> bytes:
    """The latents as a safetensors file in `STORED_DTYPE`.

    Raises:
        ValueError: a latent is not finite or leaves the range of the stored type.
    """
    tensors = {"video": clip.video, "audio": clip.audio, "text": clip.text}
    stored = {name: value.to(STORED_DTYPE).contiguous() for name, value in tensors.items() if value is not None}
    for name, value in stored.items():
        if not bool(value.isfinite().all()):
            raise ValueError(
                f"its {name} latents are not finite in {STORED_DTYPE}: check the clip and the {name} tokenizer"
            )
    return safetensors.torch.save(stored)


def latents_from_bytes(key: str, payload: bytes | bytearray | memoryview) -> LatentClip:
    """What `latents_to_bytes` wrote, still in `STORED_DTYPE`. The latents lie in `payload` itself where it is writable.

    Raises:
        ValueError: the bytes are not those of latents.
    """
    payload = bytearray(payload) if isinstance(payload, bytes) else payload
    try:
        data_start = _LENGTH_BYTES + int.from_bytes(payload[:_LENGTH_BYTES], "little")
        parts = _parts(bytes(payload[_LENGTH_BYTES:data_start]))
        if any(part.end > len(payload) - data_start for part in parts.values()):
            raise ValueError(f"{len(payload)} bytes are too few")
        tensors = {name: part.of(payload, data_start) for name, part in parts.items()}
        return LatentClip(key=key, video=tensors.get("video"), audio=tensors.get("audio"), text=tensors["text"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its bytes are no latents: {error}") from error


class _Part(NamedTuple):
    """Where a tensor lies behind the header of a safetensors file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    num_values: int
    begin: int
    end: int

    def of(self, payload: bytearray | memoryview, data_start: int) -> Tensor:
        values = torch.frombuffer(payload, dtype=self.dtype, count=self.num_values, offset=data_start + self.begin)
        return values.view(self.shape)


@functools.lru_cache(maxsize=1024)  # clips of one size have one header
def _parts(header: bytes) -> dict[str, _Part]:
    """The tensors that a header lists. Raises ValueError, KeyError, TypeError or AttributeError for a damaged one."""
    parts = {}
    for name, entry in json.loads(header).items():
        if name == "__metadata__":
            continue
        dtype, shape, (begin, end) = _DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
        part = _Part(dtype=dtype, shape=shape, num_values=math.prod(shape), begin=begin, end=end)
        if begin < 0 or min(shape) < 1 or end - begin != part.num_values * dtype.itemsize:
            raise ValueError(f"the header says {entry}")
        parts[name] = part
    return parts


def read_shard(path: str | Path) -> Iterator[tuple[LatentClip, ClipMetadata]]:
    """The clips of a shard in their order, latents in `STORED_DTYPE`.

    Raises:
        ValueError: the shard is missing or damaged.
    """
    if not Path(path).is_file():
        raise ValueError(f"the shard {path} is missing: tokenize again with overwrite=true")
    with Path(path).open("rb") as stream:
        yield from _clips_of(stream, told=str(path))


def _clips_of(stream: BytesIO | BufferedReader, *, told: str) -> Iterator[tuple[LatentClip, ClipMetadata]]:
    """The clips of a tar. Raises ValueError, naming the tar as `told`, when it is damaged."""
    try:
        for sample in group_by_keys(tar_file_expander([{"url": told, "stream": stream}])):
            metadata = ClipMetadata.from_json(json.loads(sample[METADATA_MEMBER]))
            yield latents_from_bytes(sample["__key__"], sample[LATENTS_MEMBER]), metadata
    except (tarfile.TarError, EOFError, KeyError, ValueError) as error:
        raise ValueError(f"the shard {told} is damaged ({error}): delete it and tokenize again") from error


def find_spans(path: str | Path) -> dict[str, Span]:
    """Where the latents of each clip of a shard lie, by reading its headers; up to the first that is damaged."""
    spans: dict[str, Span] = {}
    with suppress(tarfile.TarError, EOFError), tarfile.open(path, "r:") as tar:
        for member in tar:
            if member.name.endswith(f".{LATENTS_MEMBER}"):
                key = member.name.removesuffix(f".{LATENTS_MEMBER}")
                spans[key] = Span(offset=member.offset_data, num_bytes=member.size)
    return spans


def read_latent_clips(
    shards: str | Path, split: str, *, max_clips: int | None = None
) -> Iterator[tuple[LatentClip, ClipMetadata]]:
    """The first `max_clips` clips of a split (None: all) in the order of the shards, latents in float32.

    Args:
        shards: a folder or its URL; of remote shards no more is read than up to the last clip that is wanted.

    Raises:
        ValueError: there are no finished shards, or the split has no clips.
    """
    storage = Storage(shards)
    manifest = read_manifest(storage)
    records = manifest.shards_of(split)
    if not records:
        raise ValueError(f"{shards} has no clips in the split {split!r}; it has {', '.join(manifest.splits) or 'none'}")
    return ((in_float32(clip), metadata) for clip, metadata in _first_clips(storage, records, max_clips))


def read_clips_to_sample(shards: str | Path, *, max_clips: int) -> Iterator[tuple[LatentClip, ClipMetadata]]:
    """The first clips whose prompts and sizes are sampled while a model trains: held-out ones, where there are any.

    Raises ValueError as `read_latent_clips`.
    """
    split = "validation" if "validation" in read_manifest(shards).splits else "train"
    return read_latent_clips(shards, split, max_clips=max_clips)


def _first_clips(
    storage: Storage, records: Sequence[ShardRecord], max_clips: int | None
) -> Iterator[tuple[LatentClip, ClipMetadata]]:
    wanted = sum(len(record.samples) for record in records) if max_clips is None else max_clips
    for record in records:
        samples = record.samples[:wanted]
        if not samples:
            continue
        wanted -= len(samples)
        if storage.is_local:
            yield from islice(read_shard(storage.path(record.name)), len(samples))
            continue
        is_whole = len(samples) == len(record.samples) or samples[-1].offset is None
        end = None if is_whole else (samples[-1].offset or 0) + -(-(samples[-1].num_bytes or 0) // BLOCK) * BLOCK
        stream = BytesIO(storage.read(record.name, num_bytes=end))
        yield from islice(_clips_of(stream, told=f"{storage}/{record.name}"), len(samples))


def read_manifest(shards: str | Path | Storage) -> Manifest:
    """The manifest of shards in a folder or at a URL. Raises ValueError when there is none, or of another schema."""
    storage = shards if isinstance(shards, Storage) else Storage(shards)
    if storage.is_local:
        return Manifest.load(storage.root)
    try:
        return Manifest.parse(bytes(storage.read(MANIFEST_FILE)), source=f"{storage}/{MANIFEST_FILE}")
    except FileNotFoundError as error:
        raise ValueError(
            f"no {MANIFEST_FILE} in {storage}: run `hh-train tokenize` to its end and copy the whole folder"
        ) from error


def in_float32(clip: LatentClip) -> LatentClip:
    """The clip with its latents as float32."""
    return replace(
        clip,
        video=None if clip.video is None else clip.video.float(),
        audio=None if clip.audio is None else clip.audio.float(),
        text=clip.text.float(),
    )


def write_null_text(shards: str | Path, features: Float[Tensor, "Nt C"]) -> None:
    """Stores the features of the null prompt in a shards folder; they appear complete or not at all."""
    path = Path(shards) / NULL_FILE
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(safetensors.torch.save({"text": features.contiguous()}))
    partial.replace(path)


def read_null_text(shards: str | Path | Storage) -> Float[Tensor, "Nt C"]:
    """The features that stand for 'no text', in float32. Raises ValueError when the folder has none."""
    storage = shards if isinstance(shards, Storage) else Storage(shards)
    try:
        return safetensors.torch.load(bytes(storage.read(NULL_FILE)))["text"].float()
    except FileNotFoundError as error:
        raise ValueError(f"no {NULL_FILE} in {storage}: run `hh-train tokenize` to its end") from error
