"""`hh-train tokenize inspect`: latent clips back to pictures and sound, to be looked at before anything is trained."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from hh_train.data.footage.clip_folder import write_described_clip
from hh_train.data.shards.format import in_float32, read_shard
from hh_train.data.shards.manifest import Manifest
from hh_train.metrics.report.figures import frame_strip
from hh_train.stages.codec_clips import decode
from hh_train.tokenizers import load_tokenizers
from hh_train.types import ClipMetadata, LatentClip

CONTACT_SHEET = "contact_sheet.png"
STRIP_HEIGHT, LABEL_HEIGHT = 128, 18

Picture = NDArray[np.uint8]


def run(*, shards: str, output: str, split: str | None = None, num_clips: int = 8, seed: int = 0) -> Path:
    """Decodes random clips of a shards folder with the folder's own codecs, and returns `output`.

    Writes `KEY.mp4` with the prompt in `KEY.txt` and the metadata in `KEY.json`, and `contact_sheet.png`: a strip of
    frames from each clip.

    Args:
        shards: what `hh-train tokenize` wrote.
        output: the folder for the decoded clips.
        split: of which clips are drawn; None draws from all.
        num_clips: how many, or all where there are fewer.
        seed: of the draw.

    Raises:
        ValueError: there are no such clips, or the shards are damaged.
    """
    manifest = Manifest.load(shards)
    chosen = _draw(manifest, split, num_clips, seed)
    tokenizers = load_tokenizers(shards)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    console, strips = Console(), []
    for latents, metadata in track(_read(Path(shards), chosen), "decoding", total=sum(map(len, chosen.values()))):
        if latents.video is None:
            console.print(f"{latents.key}: no picture to decode", markup=False)
            continue
        clip = decode(latents, tokenizers, frames_per_second=manifest.frames_per_second)
        write_described_clip(folder, clip, metadata, record={})
        strips.append(_labeled(frame_strip(clip.frames), latents.key))
        console.print(f"\n{latents.key}\n{metadata.prompt.compose()}", markup=False, highlight=False)
    if strips:
        cv2.imwrite(str(folder / CONTACT_SHEET), _stacked(strips)[..., ::-1])
    console.print(f"\n{len(strips)} clips decoded; look at {folder / CONTACT_SHEET}", soft_wrap=True)
    return folder


def _draw(manifest: Manifest, split: str | None, num_clips: int, seed: int) -> dict[str, set[str]]:
    """Names of shards, and the keys drawn from each."""
    if num_clips < 1:
        raise ValueError(f"got num_clips {num_clips}; wanted 1 or more")
    splits = manifest.splits if split is None else (split,)
    there = [(shard.name, sample.key) for s in splits for shard in manifest.shards_of(s) for sample in shard.samples]
    if not there:
        raise ValueError(f"got the split {split!r}, which has no clips; wanted one of {', '.join(manifest.splits)}")
    chosen: dict[str, set[str]] = {}
    for shard, key in sorted(random.Random(seed).sample(there, min(num_clips, len(there)))):
        chosen.setdefault(shard, set()).add(key)
    return chosen


def _read(folder: Path, chosen: dict[str, set[str]]) -> Iterator[tuple[LatentClip, ClipMetadata]]:
    for shard, keys in chosen.items():
        yield from ((in_float32(latents), m) for latents, m in read_shard(folder / shard) if latents.key in keys)


def _labeled(strip: UInt8[Tensor, "H W 3"], label: str) -> Picture:
    """The strip at a height that fits on a screen, its clip's name above it."""
    width = max(1, round(STRIP_HEIGHT * strip.shape[1] / strip.shape[0]))
    picture = cv2.resize(strip.cpu().numpy(), (width, STRIP_HEIGHT), interpolation=cv2.INTER_AREA)
    head = np.full((LABEL_HEIGHT, width, 3), 255, dtype=np.uint8)
    ascii_label = label.encode("ascii", "replace").decode()
    cv2.putText(head, ascii_label, (2, LABEL_HEIGHT - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([head, np.asarray(picture, dtype=np.uint8)])


def _stacked(pictures: Sequence[Picture]) -> Picture:
    width = max(picture.shape[1] for picture in pictures)
    return np.concatenate([np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in pictures])
