"""`hh-train tokenize`: a folder of footage to latent shards, with the codecs that made them and what they lose."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rich.console import Console
from torch import Tensor

from hh_train.data.annotate import Annotator, Captioner, Transcriber
from hh_train.data.footage.files import SPLITS, DroppedClip, FootageFile
from hh_train.data.media.files import MediaReader
from hh_train.data.selection.accounting import Accounting
from hh_train.data.selection.buckets import Buckets
from hh_train.data.selection.clip_reading import WindowClip, WindowReader
from hh_train.data.selection.cuts import CutDetector
from hh_train.data.selection.duplicates import DuplicateSearch
from hh_train.data.selection.filters import ClipFilter
from hh_train.data.selection.survey import FootageSurvey, Surveyor
from hh_train.data.selection.windows import ClipWindow, WindowLengths, WindowPlan
from hh_train.data.shards.folder import ShardFolder
from hh_train.data.shards.format import write_null_text
from hh_train.data.shards.manifest import MANIFEST_FILE, Manifest, TokenizerRecord
from hh_train.inference.codecs import tokenizers_of
from hh_train.inference.reconstruction import measure_reconstruction
from hh_train.metrics.speech.recognizer import Recognizer
from hh_train.runtime.launcher import launched_process
from hh_train.stages.clip_encoder import ClipEncoder
from hh_train.stages.footage_source import (
    SURVEY_FOLDER,
    FootageSource,
    clip_digests,
    file_digest,
    find_files,
    preview,
    progress_bar,
)
from hh_train.stages.tokenize_summary import kept_clips, print_accounting, print_summary, told_reasons
from hh_train.tokenizers import AudioTokenizer, TextTokenizer, Tokenizers, VideoTokenizer, load_tokenizers
from hh_train.tokenizers.pretrained import ROLES, TOKENIZERS_FOLDER, PretrainedTokenizer, class_path
from hh_train.types import Clip, ClipMetadata

RECONSTRUCTION_FOLDER = "reconstruction"


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
    buckets: Buckets | None = None,
    cuts: CutDetector | None = None,
    windows: WindowPlan | None = None,
    duplicates: DuplicateSearch | None = None,
    filters: Mapping[str, ClipFilter | None] | None = None,
    transcriber: Transcriber | None = None,
    captioner: Captioner | None = None,
    fit_clips: int = 256,
    batch_clips: int = 8,
    shard_megabytes: float = 1024.0,
    reconstruct_clips: int = 8,
    recognizer: str | None = None,
    codecs: str | None = None,
    num_workers: int | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> Manifest | Accounting:
    """Writes the shards of a footage folder. A second call goes on where a killed one stopped; finished shards stay.

    Args:
        footage: the folder; see `hh_train.data.footage.files.find_footage` for splits and captions.
        output: the shards folder.
        video: fitted to the training clips here when it needs fitting; likewise `audio`.
        audio: one latent a video frame: its latents a second are the frame rate of the clips.
        text: codec of the composed prompts.
        size: height and width in pixels that every clip is cropped and scaled to, where there are no buckets.
        max_frames: longer clips are cut to it; one more than a multiple of the temporal stride. Lengths of buckets take
            its place.
        held_out_share: for validation, and as much for test, where the footage has no folders for them.
        buckets: several sizes and lengths; each clip gets the size that crops it least.
        cuts: finds the shots of each file, which become clips of their own.
        windows: where in a shot, or in a file that is not cut, clips are taken; None takes one at the start.
        duplicates: leaves out clips that look and sound like others.
        filters: leave out what is unfit, by name; the name says nothing, None stands for a filter that is turned off.
        transcriber: hears the words of clips that have none.
        captioner: describes clips that have no caption, and stretches of longer files.
        fit_clips: training clips that the codecs are fitted to.
        batch_clips: the most that codecs with `encode_many` encode together; large clips come alone. Where a device's
            arithmetic depends on what is encoded together, another value gives other last bits.
        shard_megabytes: a shard is closed when it has grown to this size.
        reconstruct_clips: held-out clips that are decoded again, measured and written to `output/reconstruction`.
        recognizer: folder of a trained recognizer, which then compares its errors on original and decoded speech.
        codecs: shards, a folder or a URL, whose codecs are taken instead of `video`, `audio` and `text`: those that a
            checkpoint to be trained further was made with.
        num_workers: threads that decode media; all processors by default.
        overwrite: make shards of other settings anew.
        dry_run: look at the footage, print what would be kept and left out and why, and encode nothing.

    Returns:
        The manifest; of a dry run the accounting.

    Raises:
        ValueError: no usable footage, sizes that the codecs cannot take, or shards of other settings in the output.
    """
    started = time.perf_counter()
    console = Console()
    listener = None if recognizer is None else Recognizer.load(recognizer)
    tokenizers = Tokenizers(video=video, audio=audio, text=text) if codecs is None else tokenizers_of(codecs)
    reader = _reader(tokenizers.video, tokenizers.audio, size, max_frames)
    lengths = _lengths(tokenizers.video, reader, buckets)
    process, num_processes = launched_process()
    files = find_files(footage, Path(output), held_out_share)
    annotator = Annotator(transcriber=transcriber, captioner=captioner)
    source = FootageSource(
        files=files,
        first_file=process * len(files) // num_processes,
        surveyor=Surveyor(reader=reader, lengths=lengths, cuts=cuts, plan=windows, duplicates=duplicates),
        reader=WindowReader(
            reader=reader,
            lengths=lengths,
            filters={name: chosen for name, chosen in (filters or {}).items() if chosen is not None},
            needs_caption=captioner is None,
            hears_words=transcriber is not None,
        ),
        cache=Path(output) / SURVEY_FOLDER,
        num_workers=num_workers,
    )
    if dry_run:
        accounting = preview(source)
        print_accounting(console, accounting)
        return accounting
    settings = {
        "size": list(size),
        "max_frames": max_frames,
        "buckets": None if buckets is None else buckets.settings(),
        **source.settings(),
        "annotation": annotator.settings() if transcriber or captioner else None,
        "fit_clips": fit_clips,
        "shard_megabytes": shard_megabytes,
        "tokenizers": {name: _identity(name, getattr(tokenizers, name)) for name in ROLES},
    }
    digests = {file.key: file_digest(file) for file in files}
    folder = ShardFolder(
        folder=output,
        settings=settings,
        shard_bytes=round(shard_megabytes * 2**20),
        overwrite=overwrite,
        companions=(TOKENIZERS_FOLDER,),
        footage=digests,
        process=process,
        num_processes=num_processes,
    )
    if not folder.is_complete:
        survey = source.survey()
        folder.expect(clip_digests(survey, digests))
        tokenizers = _ready_tokenizers(folder, tokenizers, survey, source, fit_clips)
        encoder = ClipEncoder(tokenizers, annotator, batch_clips)
        _write_shards(folder, survey, source, encoder)
        accounting = _accounting(folder, source, survey, tokenizers.video)
        if not folder.close_part():
            console.print(f"process {process} of {num_processes} is done; the last one to end writes {MANIFEST_FILE}")
            return accounting
        if not any(record.split == "train" and record.samples for record in folder.records):
            raise ValueError(
                f"no training clip of {footage} is usable: "
                f"{told_reasons([d for r in folder.records for d in r.dropped])}"
            )
        write_null_text(folder.folder, tokenizers.text.encode(tokenizers.text.null_prompt))
        measured = measure_reconstruction(
            clips=_held_out(survey, source, encoder, reconstruct_clips),
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
                accounting=_accounting(folder, source, survey, tokenizers.video).to_json(),
            )
        )
    shutil.rmtree(source.cache, ignore_errors=True)
    manifest = Manifest.load(output)
    print_summary(console, manifest, output, time.perf_counter() - started)
    return manifest


def _accounting(folder: ShardFolder, source: FootageSource, survey: FootageSurvey, video: VideoTokenizer) -> Accounting:
    """Of the finished shards."""
    notes: Counter[str] = Counter()
    for record in folder.records:
        notes.update(record.notes)
    return Accounting.of(
        kept_clips(folder.records, stride=video.stride, frames_per_second=source.reader.reader.frames_per_second),
        (clip for record in folder.records for clip in record.dropped),
        files=len(source.files),
        footage_seconds=survey.seconds,
        outside_seconds=survey.outside_seconds,
        notes=notes,
    )


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


def _lengths(video: VideoTokenizer, reader: MediaReader, buckets: Buckets | None) -> WindowLengths:
    """The sizes and lengths that clips may have. Raises ValueError for those that the video codec cannot take."""
    assert reader.size is not None and reader.max_frames is not None
    time_stride, *strides = video.stride
    for bucket in [] if buckets is None else buckets.sizes:
        if any(length % stride for length, stride in zip(bucket, strides, strict=True)):
            raise ValueError(f"got the bucket size {list(bucket)}; wanted multiples of the video tokenizer's {strides}")
    odd = [] if buckets is None else [length for length in buckets.frames if length % time_stride != 1 % time_stride]
    if odd:
        raise ValueError(f"got the bucket lengths {odd}; wanted multiples of {time_stride} plus 1")
    return WindowLengths(
        buckets=buckets or Buckets(sizes=(reader.size,)),
        multiple=reader.frame_multiple,
        shortest=reader.min_frames,
        longest=reader.max_frames,
    )


def _held_out(
    survey: FootageSurvey, source: FootageSource, encoder: ClipEncoder, count: int
) -> Iterator[tuple[Clip, ClipMetadata]]:
    """The first clips that training does not see, as far as there are any; one of each file."""
    windows = next(found for found in (survey.split(name)[1] for name in ("validation", "test", "train")) if found)
    first_of_files: dict[FootageFile, ClipWindow] = {}
    for window in windows:
        first_of_files.setdefault(window.file, window)
    for item in source.read(islice(first_of_files.values(), count)):
        if isinstance(item, WindowClip):
            with suppress(ValueError):  # then it is among those that were left out
                yield item.clip, encoder.annotated(item)


def _ready_tokenizers(
    folder: ShardFolder, tokenizers: Tokenizers, survey: FootageSurvey, source: FootageSource, fit_clips: int
) -> Tokenizers:
    """The codecs, saved in the shards folder: those fitted there in an earlier run or here, the others as given."""

    def make(path: Path) -> None:
        training = survey.split("train")[1][:fit_clips]
        for name in ROLES:
            if _needs_fit(getattr(tokenizers, name)):
                _fit(name, getattr(tokenizers, name), training, source)
        tokenizers.save(path)

    folder.companion(TOKENIZERS_FOLDER, make)
    given = {name: getattr(tokenizers, name) for name in ROLES}
    ready = {name: codec for name, codec in given.items() if not isinstance(codec, FittedTokenizer)}
    return replace(load_tokenizers(folder.folder), **ready)


def _fit(name: str, tokenizer: FittedTokenizer, windows: Sequence[ClipWindow], source: FootageSource) -> None:
    """Fits a codec to clips, which are read again for every codec so that memory stays small."""
    dropped: list[DroppedClip] = []

    def media() -> Iterator[Tensor]:
        with progress_bar() as progress:
            for item in progress.track(source.read(windows), len(windows), description=f"fit {name}"):
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
            f"cannot fit the {name} tokenizer to {len(windows)} training clips: {error}, or a tokenizer that is fitted."
            f" Clips left out: {told_reasons(dropped)}"
        ) from error


def _write_shards(folder: ShardFolder, survey: FootageSurvey, source: FootageSource, encoder: ClipEncoder) -> None:
    with progress_bar() as progress:
        for split in SPLITS:
            lost, windows = survey.split(split)
            batches = encoder.batches([window for window in windows if folder.is_mine(window.key)])
            open_batches = [batch for batch in batches if not all(folder.is_done(window.key) for window in batch)]
            left_out = [clip for clip in lost if not folder.is_done(clip.key)]
            if open_batches or left_out:
                needed = list(chain.from_iterable(open_batches))
                clips = iter(progress.track(source.read(needed), len(needed), description=split))
                encoded = encoder.encode_all(open_batches, clips, is_done=folder.is_done)
                folder.write_split(split, chain(left_out, encoded))
