"""`hh-train tokenize`: a folder of footage to latent shards, with the codecs that made them and what they lose."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from hh_train.data.footage import SPLITS, DroppedClip, FootageClip, FootageFile, find_footage, hash_order, read_footage
from hh_train.data.manifest import MANIFEST_FILE, Manifest, TokenizerRecord
from hh_train.data.media import MediaReader
from hh_train.data.shard_folder import ShardFolder
from hh_train.data.shards import TokenizedClip, write_null_text
from hh_train.inference.reconstruction import measure_reconstruction
from hh_train.metrics.recognizer import Recognizer
from hh_train.runtime import logging
from hh_train.tokenizers import AudioTokenizer, TextTokenizer, Tokenizers, VideoTokenizer, load_tokenizers
from hh_train.tokenizers.pretrained import ROLES, TOKENIZERS_FOLDER, PretrainedTokenizer, class_path
from hh_train.types import LatentClip

RECONSTRUCTION_FOLDER = "reconstruction"
MAX_TOLD_REASONS = 5
RECONSTRUCTION_ROWS = (
    ("video_psnr_db", "picture: peak signal to noise", "{:.2f} dB"),
    ("audio_mel_distance_db", "sound: distance of log-mel spectra", "{:.2f} dB"),
    ("audio_loudness_change_db", "sound: change of loudness", "{:+.2f} dB"),
    ("speech_error_original", "recognizer's error on the original", "{:.1%}"),
    ("speech_error_decoded", "recognizer's error on the decoded", "{:.1%}"),
)


@runtime_checkable
class FittedTokenizer(Protocol):
    """A codec that learns from media before it can be used."""

    @property
    def is_fitted(self) -> bool: ...

    def fit(self, clips: Iterable[Tensor], /) -> None: ...


def run(
    *,
    footage: str,
    output: str,
    video: VideoTokenizer,
    audio: AudioTokenizer,
    text: TextTokenizer,
    size: Sequence[int] = (64, 64),
    max_frames: int = 101,
    held_out_share: float = 0.05,
    fit_clips: int = 256,
    shard_megabytes: float = 64.0,
    reconstruct_clips: int = 8,
    recognizer: str | None = None,
    num_workers: int | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Writes the shards of a footage folder. A second call goes on where a killed one stopped; finished shards stay.

    Args:
        footage: the folder; see `hh_train.data.footage.find_footage` for splits and captions.
        output: the shards folder.
        video: fitted to the training clips here when it needs fitting; likewise `audio`.
        audio: one latent a video frame: its latents a second are the frame rate of the clips.
        text: codec of the composed prompts.
        size: height and width in pixels that every clip is cropped and scaled to.
        max_frames: longer clips are cut to it; one more than a multiple of the temporal stride.
        held_out_share: for validation, and as much for test, where the footage has no folders for them.
        fit_clips: training clips that the codecs are fitted to.
        shard_megabytes: a shard is closed when it has grown to this size.
        reconstruct_clips: held-out clips that are decoded again, measured and written to `output/reconstruction`.
        recognizer: folder of a trained recognizer, which then compares its errors on original and decoded speech.
        num_workers: threads that decode media; all processors by default.
        overwrite: make shards of other settings anew.

    Raises:
        ValueError: no usable footage, sizes that the codecs cannot take, or shards of other settings in the output.
    """
    started = time.perf_counter()
    console = Console()
    listener = None if recognizer is None else Recognizer.load(recognizer)
    tokenizers = Tokenizers(video=video, audio=audio, text=text)
    reader = _reader(video, audio, size, max_frames)
    files = find_footage(footage, held_out_share=held_out_share)
    settings = {
        "footage": {"clips": len(files), "digest": _footage_digest(files)},
        "size": list(size),
        "max_frames": max_frames,
        "fit_clips": fit_clips,
        "shard_megabytes": shard_megabytes,
        "tokenizers": {name: _identity(name, getattr(tokenizers, name)) for name in ROLES},
    }
    folder = ShardFolder(
        folder=output,
        settings=settings,
        shard_bytes=round(shard_megabytes * 2**20),
        overwrite=overwrite,
        companions=(TOKENIZERS_FOLDER,),
    )
    if not folder.is_complete:
        tokenizers = _ready_tokenizers(folder.folder, tokenizers, files, reader, fit_clips, num_workers)
        _write_shards(folder, files, reader, tokenizers, num_workers)
        if not any(record.split == "train" and record.samples for record in folder.records):
            raise ValueError(
                f"no training clip of {footage} is usable: {_reasons([d for r in folder.records for d in r.dropped])}"
            )
        write_null_text(folder.folder, tokenizers.text.encode(tokenizers.text.null_prompt))
        measured = measure_reconstruction(
            files=_held_out(files)[:reconstruct_clips],
            reader=reader,
            video=tokenizers.video,
            audio=tokenizers.audio,
            output=folder.folder / RECONSTRUCTION_FOLDER,
            recognizer=listener,
        )
        folder.finish(
            Manifest(
                settings=folder.settings,
                frames_per_second=reader.frames_per_second,
                samples_per_second=reader.samples_per_second,
                tokenizers={name: _record(getattr(tokenizers, name)) for name in ROLES},
                shards=folder.records,
                reconstruction=measured,
            )
        )
    manifest = Manifest.load(output)
    _print_summary(console, manifest, output, time.perf_counter() - started)
    return manifest


def _identity(name: str, codec: Any) -> dict[str, Any]:
    """What tells a codec from others: class, settings and, when it needs no fitting here, its fingerprint."""
    if not isinstance(codec, PretrainedTokenizer):
        raise ValueError(
            f"the {name} tokenizer is a {type(codec).__name__}; wanted a PretrainedTokenizer, which shards can carry"
        )
    identity = {"class": class_path(type(codec)), **codec.settings()}
    return identity if _needs_fit(codec) else {**identity, "fingerprint": codec.fingerprint()}


def _needs_fit(codec: object) -> bool:
    return isinstance(codec, FittedTokenizer) and not codec.is_fitted


def _record(codec: Any) -> TokenizerRecord:
    return TokenizerRecord(
        tokenizer_class=class_path(type(codec)), num_channels=codec.num_channels, fingerprint=codec.fingerprint()
    )


def _reader(video: VideoTokenizer, audio: AudioTokenizer, size: Sequence[int], max_frames: int) -> MediaReader:
    time_stride, *strides = video.stride
    if len(size) != 2 or any(length % stride or length < stride for length, stride in zip(size, strides, strict=True)):
        raise ValueError(
            f"got size {list(size)}; wanted height and width in multiples of the video tokenizer's {strides}"
        )
    if max_frames < time_stride + 1 or max_frames % time_stride != 1 % time_stride:
        raise ValueError(
            f"got max_frames {max_frames}; wanted a multiple of {time_stride} plus 1, {time_stride + 1} or more"
        )
    return MediaReader(
        frames_per_second=float(audio.latents_per_second),
        samples_per_second=audio.samples_per_second,
        size=(size[0], size[1]),
        frame_multiple=time_stride,
        min_frames=time_stride + 1,
        max_frames=max_frames,
    )


def _footage_digest(files: Sequence[FootageFile]) -> str:
    """Changes when clips or captions come, go or change in size."""
    digest = hashlib.sha256()
    for file in files:
        sizes = [
            p.stat().st_size if p.is_file() else None
            for p in (file.path, *map(file.path.with_suffix, (".txt", ".json")))
        ]
        digest.update(f"{file.split}/{file.key} {sizes}\n".encode())
    return digest.hexdigest()[:16]


def _in_hash_order(files: Iterable[FootageFile], split: str) -> list[FootageFile]:
    """The clips of a split, mixed, so that every shard holds a bit of everything."""
    return sorted((file for file in files if file.split == split), key=lambda file: hash_order(file.key))


def _held_out(files: Sequence[FootageFile]) -> list[FootageFile]:
    by_preference = (_in_hash_order(files, split) for split in ("validation", "test", "train"))
    return next(found for found in by_preference if found)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=logging.console, transient=True)


def _ready_tokenizers(
    folder: Path,
    tokenizers: Tokenizers,
    files: Sequence[FootageFile],
    reader: MediaReader,
    fit_clips: int,
    num_workers: int | None,
) -> Tokenizers:
    """The codecs, saved in the shards folder: those of an earlier run, or these after fitting where they need it."""
    saved = folder / TOKENIZERS_FOLDER
    if not saved.is_dir():
        training = _in_hash_order(files, "train")[:fit_clips]
        for name in ROLES:
            if _needs_fit(getattr(tokenizers, name)):
                _fit(name, getattr(tokenizers, name), training, reader, num_workers)
        tokenizers.save(saved)
    return load_tokenizers(folder)


def _fit(
    name: str,
    tokenizer: FittedTokenizer,
    files: Sequence[FootageFile],
    reader: MediaReader,
    num_workers: int | None,
) -> None:
    """Fits a codec to clips, which are read again for every codec so that memory stays small."""
    dropped: list[DroppedClip] = []

    def media() -> Iterator[Tensor]:
        with _progress() as progress:
            clips = read_footage(files, reader, num_workers=num_workers)
            for item in progress.track(clips, len(files), description=f"fit {name}"):
                if isinstance(item, DroppedClip):
                    dropped.append(item)
                    continue
                tensor = item.clip.frames if name == "video" else item.clip.waveform
                if tensor is not None:
                    yield tensor

    try:
        tokenizer.fit(media())
    except ValueError as error:
        raise ValueError(
            f"cannot fit the {name} tokenizer to {len(files)} training clips: {error}, or a tokenizer that is fitted. "
            f"Clips left out: {_reasons(dropped)}"
        ) from error


def _write_shards(
    folder: ShardFolder,
    files: Sequence[FootageFile],
    reader: MediaReader,
    tokenizers: Tokenizers,
    num_workers: int | None,
) -> None:
    with _progress() as progress:
        for split in SPLITS:
            missing = [file for file in _in_hash_order(files, split) if not folder.is_done(file.key)]
            if missing:
                clips = progress.track(
                    read_footage(missing, reader, num_workers=num_workers), len(missing), description=split
                )
                folder.write_split(split, (_tokenized(item, tokenizers) for item in clips))


def _tokenized(item: FootageClip | DroppedClip, tokenizers: Tokenizers) -> TokenizedClip | DroppedClip:
    if isinstance(item, DroppedClip):
        return item
    try:
        latents = LatentClip(
            key=item.file.key,
            video=tokenizers.video.encode(item.clip.frames),
            audio=None if item.clip.waveform is None else tokenizers.audio.encode(item.clip.waveform),
            text=tokenizers.text.encode(item.metadata.prompt.compose()),
        )
    except ValueError as error:
        return DroppedClip(key=item.file.key, split=item.file.split, reason=str(error))
    return TokenizedClip(latents=latents, metadata=item.metadata)


def _reasons(dropped: Iterable[DroppedClip]) -> str:
    """The reasons with their counts and a clip each."""
    by_reason: dict[str, list[str]] = {}
    for clip in dropped:
        by_reason.setdefault(clip.reason, []).append(clip.key)
    told = [f"{len(keys)} x {reason} (such as {keys[0]})" for reason, keys in by_reason.items()]
    more = [f"and {len(told) - MAX_TOLD_REASONS} other reasons"] if len(told) > MAX_TOLD_REASONS else []
    return "; ".join([*told[:MAX_TOLD_REASONS], *more]) or "none"


def _print_summary(console: Console, manifest: Manifest, output: str, seconds: float) -> None:
    table = Table(title=f"Latent shards in {output} (latents in thousands)", title_justify="left")
    for column in ("split", "clips", "left out", "silent", "video", "audio", "text", "MB"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split in SPLITS:
        shards = [shard for shard in manifest.shards if shard.split == split]
        samples = [sample for shard in shards for sample in shard.samples]
        table.add_row(
            split,
            str(len(samples)),
            str(sum(len(shard.dropped) for shard in shards)),
            str(sum(shard.num_silent for shard in shards)),
            f"{sum(prod(sample.video or (0,)) for sample in samples) / 1000:.1f}",
            f"{sum(sample.audio or 0 for sample in samples) / 1000:.1f}",
            f"{sum(sample.text for sample in samples) / 1000:.1f}",
            f"{sum(shard.num_bytes for shard in shards) / 2**20:.1f}",
        )
    console.print(table)
    if manifest.dropped:
        told = _reasons(manifest.dropped)
        console.print(f"Left out: {told}; {MANIFEST_FILE} lists every clip", markup=False, highlight=False)
    _print_reconstruction(console, manifest)
    console.print(f"{seconds:.1f} seconds")


def _print_reconstruction(console: Console, manifest: Manifest) -> None:
    table = Table(title="Held-out clips through the codecs and back", title_justify="left")
    table.add_column("measure")
    table.add_column("value", justify="right")
    for name, label, template in RECONSTRUCTION_ROWS:
        if name in manifest.reconstruction:
            table.add_row(label, template.format(manifest.reconstruction[name]))
    console.print(table if table.row_count else "The codecs' losses were not measured (reconstruct_clips is 0)")
