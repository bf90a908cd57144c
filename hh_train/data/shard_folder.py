"""A shards folder in the making. It goes on where a killed run stopped, and never mixes shards of two settings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from hh_train.data.footage import DroppedClip
from hh_train.data.manifest import (
    MANIFEST_FILE,
    Manifest,
    Moments,
    SampleRecord,
    ShardRecord,
    differing_settings,
    write_json,
)
from hh_train.data.shards import NULL_FILE, STORED_DTYPE, ShardWriter, TokenizedClip, read_shard, sample_record

PROGRESS_FOLDER = ".progress"
SETTINGS_FILE = "settings.json"
PENDING_SUFFIX = ".clips"


class ShardFolder:
    """Takes clips, split by split, through `write_split`; `finish` writes the manifest, which says that all is there.

    Every clip is on disk as soon as it comes: `is_done` tells which clips need no work. The shards of a run that was
    killed and started again are the same, byte for byte, as those of a run that was not.

    Args:
        folder: where the shards go.
        settings: all that the latents depend on, as plain JSON values.
        shard_bytes: a shard is closed when it has grown to this size.
        overwrite: whether shards of other settings, or that cannot be used, make way.
        companions: names of what lies beside the shards and goes with them.

    Raises:
        ValueError: the folder holds shards of other settings and `overwrite` is off. The message names the settings.
    """

    def __init__(
        self,
        *,
        folder: str | Path,
        settings: Mapping[str, Any],
        shard_bytes: int,
        overwrite: bool = False,
        companions: Sequence[str] = (),
    ) -> None:
        if shard_bytes < 1:
            raise ValueError(f"got a shard size of {shard_bytes} bytes; wanted a positive number")
        self.folder = Path(folder)
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.shard_bytes = shard_bytes
        self._progress = self.folder / PROGRESS_FOLDER
        self._companions = (NULL_FILE, *companions)
        obstacle = self._obstacle()
        if obstacle and overwrite:
            self._clear()
        elif obstacle:
            raise ValueError(f"{obstacle}: pass overwrite=true to make the shards anew, or choose another output")
        self._records: list[ShardRecord] = []
        if not self.is_complete:
            self._progress.mkdir(parents=True, exist_ok=True)
            write_json(self._progress / SETTINGS_FILE, self.settings)
            self._records = self._finished_shards()
        self._done = {key for record in self._records for key in _keys(record)}
        self._pending = self._read_pending()

    @property
    def is_complete(self) -> bool:
        return (self.folder / MANIFEST_FILE).is_file()

    @property
    def records(self) -> tuple[ShardRecord, ...]:
        """The finished shards."""
        return tuple(self._records)

    def is_done(self, key: str) -> bool:
        """Whether the clip is stored already, or was left out of a finished shard."""
        return key in self._done

    def write_split(self, split: str, clips: Iterable[TokenizedClip | DroppedClip]) -> None:
        """Writes the clips of a split that are not done, in their order; shards have `shard_bytes` or a little more."""
        shard = self._open(split)
        for stored in self._pending.pop(split, []):
            shard.add(stored, is_stored=True)
        for clip in clips:
            if shard.num_bytes >= self.shard_bytes and isinstance(clip, TokenizedClip):
                self._close(shard)
                shard = self._open(split)
            shard.add(clip)
        if shard.samples or shard.dropped:
            self._close(shard)

    def finish(self, manifest: Manifest) -> None:
        """Writes the manifest and removes the traces of work in progress."""
        manifest.save(self.folder)
        shutil.rmtree(self._progress, ignore_errors=True)

    def _open(self, split: str) -> _OpenShard:
        """The next shard of a split, under the first name that no finished shard has."""
        taken = {record.name for record in self._records}
        name = next(name for name in (f"{split}-{number:06d}.tar" for number in count()) if name not in taken)
        return _OpenShard(self.folder, self._progress, split, name)

    def _close(self, shard: _OpenShard) -> None:
        record = shard.close()
        write_json(self._progress / f"{record.name}.json", record.to_json())
        self._records.append(record)
        self._done |= _keys(record)
        shutil.rmtree(shard.pending_folder, ignore_errors=True)

    def _obstacle(self) -> str | None:
        """Why what is in the folder cannot be gone on with."""
        try:
            saved = self._saved_settings()
        except ValueError as error:
            return str(error)
        different = [] if saved is None else differing_settings(saved, self.settings)
        return f"{self.folder} holds shards made with other settings ({'; '.join(different)})" if different else None

    def _saved_settings(self) -> Mapping[str, Any] | None:
        """Raises ValueError when the folder is complete, but cannot be used."""
        if self.is_complete:
            manifest = Manifest.load(self.folder)
            lost = [shard.name for shard in manifest.shards if not (self.folder / shard.name).is_file()]
            lost += [name for name in self._companions if not (self.folder / name).exists()]
            if lost:
                raise ValueError(f"{self.folder} lacks {', '.join(lost)}, which went with its {MANIFEST_FILE}")
            return manifest.settings
        path = self._progress / SETTINGS_FILE
        if not path.is_file():
            return None
        saved: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return saved

    def _finished_shards(self) -> list[ShardRecord]:
        paths = sorted(self._progress.glob("*.tar.json"))
        records = [ShardRecord.from_json(json.loads(path.read_text(encoding="utf-8"))) for path in paths]
        return [record for record in records if (self.folder / record.name).is_file()]

    def _read_pending(self) -> dict[str, list[TokenizedClip]]:
        """By split, the stored clips that are in no finished shard. Those that are were left by a kill in between."""
        pending = {}
        for folder in sorted(self._progress.glob(f"*{PENDING_SUFFIX}")):
            clips = [clip for path in sorted(folder.glob("*.tar")) for clip in read_shard(path)]
            if any(self.is_done(latents.key) for latents, _ in clips):
                shutil.rmtree(folder)
                continue
            pending[folder.name.removesuffix(PENDING_SUFFIX)] = [
                TokenizedClip(latents=latents, metadata=metadata) for latents, metadata in clips
            ]
            self._done |= {latents.key for latents, _ in clips}
        return pending

    def _clear(self) -> None:
        """Removes what an earlier run wrote, and nothing else."""
        (self.folder / MANIFEST_FILE).unlink(missing_ok=True)
        for path in self.folder.glob("*-??????.tar"):
            path.unlink()
        for path in (self.folder / name for name in self._companions):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        shutil.rmtree(self._progress, ignore_errors=True)


def _keys(record: ShardRecord) -> set[str]:
    return {sample.key for sample in record.samples} | {clip.key for clip in record.dropped}


class _OpenShard:
    """The shard in hand. Its clips are stored one by one; the shard itself is written in one go."""

    def __init__(self, folder: Path, progress: Path, split: str, name: str) -> None:
        self.name = name
        self.path = folder / name
        self.pending_folder = progress / f"{split}{PENDING_SUFFIX}"
        self.split = split
        self.samples: list[SampleRecord] = []
        self.dropped: list[DroppedClip] = []
        self.num_silent = 0
        self._video, self._audio = Moments(), Moments()
        self._writer = ShardWriter()

    @property
    def num_bytes(self) -> int:
        return self._writer.num_bytes

    def add(self, clip: TokenizedClip | DroppedClip, *, is_stored: bool = False) -> None:
        if isinstance(clip, DroppedClip):
            self.dropped.append(clip)
            return
        latents = clip.latents
        try:
            if not is_stored:
                self._store(clip)
            self._writer.add(clip)
        except ValueError as error:
            self.dropped.append(DroppedClip(key=latents.key, split=self.split, reason=str(error)))
            return
        self.samples.append(sample_record(latents))
        self.num_silent += latents.audio is None
        self._video += Moments.of(latents.video, STORED_DTYPE)
        self._audio += Moments.of(latents.audio, STORED_DTYPE)

    def _store(self, clip: TokenizedClip) -> None:
        single = ShardWriter()
        single.add(clip)
        self.pending_folder.mkdir(exist_ok=True)
        single.close(self.pending_folder / f"{len(self.samples):08d}.tar")

    def close(self) -> ShardRecord:
        self._writer.close(self.path)
        return ShardRecord(
            name=self.name,
            split=self.split,
            num_bytes=self.path.stat().st_size,
            samples=tuple(self.samples),
            dropped=tuple(self.dropped),
            video=self._video,
            audio=self._audio,
            num_silent=self.num_silent,
        )
