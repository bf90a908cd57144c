"""What `hh-train tokenize` says: the accounting, what the shards hold, what the codecs lose."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

from rich.console import Console
from rich.table import Table

from hh_train.data.footage.files import SPLITS, DroppedClip
from hh_train.data.selection.accounting import Accounting, KeptClip
from hh_train.data.shards.manifest import MANIFEST_FILE, Manifest, ShardRecord

MAX_TOLD_REASONS = 5
RECONSTRUCTION_ROWS = (
    ("video_psnr_db", "picture: peak signal to noise", "{:.2f} dB"),
    ("audio_mel_distance_db", "sound: distance of log-mel spectra", "{:.2f} dB"),
    ("audio_loudness_change_db", "sound: change of loudness", "{:+.2f} dB"),
    ("speech_error_original", "recognizer's error on the original", "{:.1%}"),
    ("speech_error_decoded", "recognizer's error on the decoded", "{:.1%}"),
)


def kept_clips(
    shards: Iterable[ShardRecord], *, stride: Sequence[int], frames_per_second: float
) -> tuple[KeptClip, ...]:
    """The clips in finished shards, in pixels and frames, by the video codec's stride along time, height and width."""
    return tuple(
        KeptClip(
            split=shard.split,
            height=sample.video[1] * stride[1],
            width=sample.video[2] * stride[2],
            num_frames=(sample.video[0] - 1) * stride[0] + 1,
            frames_per_second=frames_per_second,
        )
        for shard in shards
        for sample in shard.samples
        if sample.video is not None
    )


def told_reasons(dropped: Iterable[DroppedClip]) -> str:
    """The reasons with their counts and a clip each."""
    by_reason: dict[str, list[str]] = {}
    for clip in dropped:
        by_reason.setdefault(clip.reason, []).append(clip.key)
    told = [f"{len(keys)} x {reason} (such as {keys[0]})" for reason, keys in by_reason.items()]
    more = [f"and {len(told) - MAX_TOLD_REASONS} other reasons"] if len(told) > MAX_TOLD_REASONS else []
    return "; ".join([*told[:MAX_TOLD_REASONS], *more]) or "none"


def print_accounting(console: Console, accounting: Accounting) -> None:
    """The whole table of clips kept and left out."""
    for table in accounting.tables():
        console.print(table)
    for note, count in accounting.notes.items():
        console.print(f"{count} clips {note}", markup=False, highlight=False)
    console.print(accounting.headline(), markup=False, highlight=False)


def print_summary(console: Console, manifest: Manifest, output: str, seconds: float) -> None:
    """What lies in a finished shards folder."""
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
    if manifest.accounting:
        print_accounting(console, Accounting.from_json(manifest.accounting))
    if manifest.dropped:
        console.print(f"{MANIFEST_FILE} lists every clip that was left out", markup=False, highlight=False)
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
