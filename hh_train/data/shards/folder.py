"""A shards folder in the making: restartable, shared out between processes, never a mixture of two settings."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from hh_train.data.footage.files import SPLITS, DroppedClip
from hh_train.data.shards.file_lock import FileLock
from hh_train.data.shards.format import NULL_FILE, TokenizedClip
from hh_train.data.shards.manifest import MANIFEST_FILE, Manifest, ShardRecord, differing_settings, write_json
from hh_train.data.shards.open_shard import OpenShard
from hh_train.data.shards.stored_clips import StoredClips

CLIPS_FILE = "clips.json"
PROGRESS_FOLDER = ".progress"
SETTINGS_FILE = "settings.json"
STORED_FOLDER = "stored"
DONE_FILE = "done.json"
_MAX_TRIES = 5
PENDING_SUFFIX = ".clips"
SHARD_PATTERN = "*-??????.tar"

ClipDigests = Mapping[str, Mapping[str, str]]
"""By split: the keys of its clips in their order, each with a digest of all that, beside the settings, its latents
depend on."""


class ShardFolder:
    """Takes clips, split by split, through `write_split`; `finish` writes the manifest, which says that all is there.

    Every clip is on disk as soon as it comes: `is_done` tells which clips need no work. The shards of a run that was
    killed and started again are the same, byte for byte, as those of a run that was not.

    With `footage`, the folder notices when files come, go or change. It is then made anew from the clips that `expect`
    is told of, and those whose digests are as they were come from what is stored: the shards are those of a run from
    nothing. Without, `settings` have to tell of the footage.

    Several processes, each with a number of its own, may write one folder at the same time or one after the other. The
    clips are shared out by a hash of their keys and every process writes shards of its own; the one for which
    `close_part` is true, the last, calls `finish`. For one number of processes the bytes are always the same.

    Args:
        folder: where the shards go.
        settings: all that the latents depend on, as plain JSON values.
        shard_bytes: a shard is closed when it has grown to this size.
        overwrite: whether shards of other settings, or that cannot be used, make way.
        companions: names of what lies beside the shards and goes with them.
        footage: the keys of the files that the clips come from, with a digest each. It needs `expect` to be called.
        process: the number of this process.
        num_processes: how many there are. With `footage`, what is stored is used again when it changes.

    Raises:
        ValueError: the folder holds shards of other settings, or of footage that has no file in common with this, and
            `overwrite` is off; or processes are at work there that cannot go on beside this one.
    """

    def __init__(
        self,
        *,
        folder: str | Path,
        settings: Mapping[str, Any],
        shard_bytes: int,
        overwrite: bool = False,
        companions: Sequence[str] = (),
        footage: Mapping[str, str] | None = None,
        process: int = 0,
        num_processes: int = 1,
    ) -> None:
        if shard_bytes < 1:
            raise ValueError(f"got a shard size of {shard_bytes} bytes; wanted a positive number")
        if not 0 <= process < num_processes:
            raise ValueError(f"got process {process} of {num_processes}; wanted 0 to {num_processes - 1}")
        self.folder = Path(folder)
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        self.shard_bytes = shard_bytes
        self.process, self.num_processes = process, num_processes
        self._footage = None if footage is None else dict(footage)
        self._clips: ClipDigests | None = None
        self._progress = self.folder / PROGRESS_FOLDER
        self._part = self._part_folder(process)
        self._companions = (NULL_FILE, *companions)
        self._records: list[ShardRecord] = []
        self._done: set[str] = set()
        self._pending: dict[str, StoredClips] = {}
        self._stored = StoredClips()
        self._locks = {name: FileLock(self._progress / f"{name}.lock") for name in ("open", "active", "finish")}
        for tries_left in reversed(range(_MAX_TRIES)):
            try:
                self._open(overwrite=overwrite)
                break
            except FileNotFoundError:  # another process has finished and tidied up in this moment
                if not tries_left:
                    raise
                for lock in self._locks.values():
                    lock.release()

    @property
    def is_complete(self) -> bool:
        return (self.folder / MANIFEST_FILE).is_file()

    @property
    def records(self) -> tuple[ShardRecord, ...]:
        """The finished shards of all processes, by split and name."""
        others = (number for number in range(self.num_processes) if number != self.process)
        found = [*self._records, *(record for number in others for record in self._finished_shards(number))]
        return tuple(sorted(found, key=lambda record: (_split_order(record.split), record.name)))

    def expect(self, clips: ClipDigests) -> None:
        """Tells, before the first is written, of all clips that the footage has, those that are left out among them.

        `write_split` has to get those that are not done in this order.

        Raises:
            ValueError: processes are at work in the folder that expect other clips.
        """
        self._clips = {split: dict(keys) for split, keys in clips.items()}
        if self.is_complete:
            return
        with self._locks["open"]:
            saved = self._saved_footage()["clips"]
            if saved not in (None, self._clips):  # the same files, cut otherwise than when the folder was begun
                self._require_alone()
                self._set_aside()
                self._lay_out()
                self._locks["active"].acquire(shared=True)
            elif saved is None:
                self._write_footage()
        self._find_done()

    def is_mine(self, key: str) -> bool:
        """Whether the clip is this process's to make."""
        number = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8, person=b"process").digest(), "big")
        return number % self.num_processes == self.process

    def is_done(self, key: str) -> bool:
        """Whether this process has nothing to do for the clip: it is stored, or was left out, or is another's."""
        return key in self._done or not self.is_mine(key)

    def write_split(self, split: str, clips: Iterable[TokenizedClip | DroppedClip]) -> None:
        """Writes the clips of a split that are not done, in their order; shards have `shard_bytes` or a little more."""
        shard = self._next_shard(split)
        for clip, stored_at in self._in_order(split, clips):
            if shard.num_bytes >= self.shard_bytes and isinstance(clip, TokenizedClip):
                self._close(shard)
                shard = self._next_shard(split)
            shard.add(clip, stored_at=stored_at)
        if shard.samples or shard.dropped:
            self._close(shard)

    def companion(self, name: str, make: Callable[[Path], object]) -> Path:
        """A file or folder beside the shards. The first process that asks for it makes it, the others wait."""
        final = self.folder / name
        if not final.exists():
            with FileLock(self._progress / f"{name}.lock"):
                if not final.exists():
                    partial = final.with_name(f".{name}.making")
                    shutil.rmtree(partial, ignore_errors=True)
                    make(partial)
                    partial.rename(final)
        return final

    def close_part(self) -> bool:
        """Says that this process has no more clips. Whether it is the last one, which has to call `finish`.

        Waits while another process is finishing, and takes over should that one be killed.

        Raises:
            ValueError: of the expected clips, one that is this process's has not come.
        """
        manifest = self.folder / MANIFEST_FILE
        if manifest.is_file():
            return False
        for split in dict.fromkeys([*(self._clips or {}), *self._pending]):
            self.write_split(split, ())
        try:
            write_json(self._part / DONE_FILE, {"shards": [record.name for record in self._records]})
            self._locks["finish"].acquire()
        except FileNotFoundError:  # another has finished and tidied up in this moment
            if manifest.is_file():
                return False
            raise
        if manifest.is_file() or not all(self._is_written(number) for number in range(self.num_processes)):
            self._locks["finish"].release()
            return False
        return True

    def finish(self, manifest: Manifest) -> None:
        """Writes the manifest and removes the traces of work in progress."""
        manifest.save(self.folder)
        self._tidy_up()
        for lock in self._locks.values():
            lock.release()

    def _tidy_up(self) -> None:
        """Takes the work in progress away in one go, so that nobody finds half of it."""
        bygone = self.folder / f"{PROGRESS_FOLDER}.done"
        shutil.rmtree(bygone, ignore_errors=True)
        with suppress(OSError):  # another does the same, or there is none
            self._progress.rename(bygone)
        shutil.rmtree(bygone, ignore_errors=True)

    # What is there already

    @property
    def _is_settled(self) -> bool:
        """Whether the folder is complete and holds the clips of this footage."""
        return self.is_complete and self._is_of_this_footage()

    def _is_of_this_footage(self) -> bool:
        return self._footage is None or self._footage == self._saved_footage()["files"]

    def _obstacle(self) -> str | None:
        """Why what is in the folder cannot be gone on with."""
        try:
            saved = self._saved_settings()
        except ValueError as error:
            return str(error)
        if saved is None:
            return None
        different = differing_settings(saved, self.settings)
        if different:
            return f"{self.folder} holds shards made with other settings ({'; '.join(different)})"
        if self._footage is None:
            begun_by = self.num_processes if self.is_complete else self._saved_progress()["num_processes"]
            return None if begun_by == self.num_processes else f"{self.folder} was begun by {begun_by} processes"
        if not any(self._tars()):
            return None
        is_known = bool(self._footage.items() & (self._saved_footage()["files"] or {}).items())
        return None if is_known else f"{self.folder} holds shards of other footage, no file of which is in this"

    def _saved_settings(self) -> Mapping[str, Any] | None:
        """Raises ValueError when the folder is complete, but cannot be used."""
        if self.is_complete:
            manifest = Manifest.load(self.folder)
            lost = [shard.name for shard in manifest.shards if not (self.folder / shard.name).is_file()]
            lost += [name for name in self._companions if not (self.folder / name).exists()]
            if lost:
                raise ValueError(f"{self.folder} lacks {', '.join(lost)}, which went with its {MANIFEST_FILE}")
            return manifest.settings
        settings: dict[str, Any] | None = self._saved_progress()["settings"]
        return settings

    def _saved_progress(self) -> dict[str, Any]:
        """The settings (None: there is no work in progress), and how many processes began it."""
        return {"settings": None, "num_processes": 0, **(_read_json(self._progress / SETTINGS_FILE) or {})}

    def _saved_footage(self) -> dict[str, Any]:
        """The files and the clips that were expected last; None where nothing is known."""
        return {"files": None, "clips": None, **(_read_json(self.folder / CLIPS_FILE) or {})}

    def _tars(self) -> Iterator[Path]:
        """Everything that holds tokenized clips, but what has been set aside."""
        yield from sorted(self.folder.glob(SHARD_PATTERN))
        yield from sorted(self._progress.glob(f"part-*/*{PENDING_SUFFIX}/*.tar"))

    # Opening

    def _open(self, *, overwrite: bool) -> None:
        obstacle = self._obstacle()
        if obstacle and not overwrite:
            raise ValueError(f"{obstacle}: pass overwrite=true to make the shards anew, or choose another output")
        if self._is_settled and not obstacle:
            self._tidy_up()
        else:
            self._open_for_writing()

    def _open_for_writing(self) -> None:
        """One process at a time. The first brings the folder in order, the others find it so.

        Another process may finish while this one looks: whether it is at work is asked first.
        """
        self._progress.mkdir(parents=True, exist_ok=True)
        with self._locks["open"]:
            is_laid_out = self._is_laid_out()
            if self._obstacle():
                self._require_alone()
                self._clear()
                is_laid_out = False
            elif self._is_settled:
                return
            elif self._saved_settings() is not None and not is_laid_out:
                self._require_alone()
                self._set_aside()
            if not is_laid_out:
                self._lay_out()
            self._locks["active"].acquire(shared=True)
        self._find_done()

    def _is_laid_out(self) -> bool:
        """Whether work on this very footage by so many processes has begun."""
        begun_by = self._saved_progress()["num_processes"]
        return not self.is_complete and begun_by == self.num_processes and self._is_of_this_footage()

    def _lay_out(self) -> None:
        """Writes down whose work begins here. The settings come last: with them the work has begun."""
        if self._footage is not None:
            self._write_footage()
        self._write_settings(self.num_processes)

    def _write_footage(self) -> None:
        write_json(self.folder / CLIPS_FILE, {"files": self._footage, "clips": self._clips})

    def _write_settings(self, num_processes: int) -> None:
        write_json(self._progress / SETTINGS_FILE, {"settings": self.settings, "num_processes": num_processes})

    def _require_alone(self) -> None:
        if not self._locks["active"].acquire(wait=False):
            raise ValueError(
                f"processes are at work in {self.folder} on other clips, or in another number than "
                f"{self.num_processes}: let them end first"
            )

    def _set_aside(self) -> None:
        """Moves all that is stored to where its clips are found whatever the order, with their digests."""
        tars = list(self._tars())
        if tars:
            self._write_settings(0)  # a kill from here on leaves a folder whose settings are known
            stored = self._progress / STORED_FOLDER
            stored.mkdir(exist_ok=True)
            numbers = (f"{number:06d}" for number in count())
            place = next(path for path in map(stored.joinpath, numbers) if not path.exists())
            place.mkdir()
            write_json(place / CLIPS_FILE, self._saved_footage()["clips"] or {})
            (self.folder / MANIFEST_FILE).unlink(missing_ok=True)
            for number, path in enumerate(tars):
                path.rename(place / f"{number:08d}.tar")
        (self.folder / MANIFEST_FILE).unlink(missing_ok=True)
        for part in self._progress.glob("part-*"):
            shutil.rmtree(part)

    def _clear(self) -> None:
        """Removes what an earlier run wrote, and nothing else."""
        (self.folder / MANIFEST_FILE).unlink(missing_ok=True)
        for path in self.folder.glob(SHARD_PATTERN):
            path.unlink()
        for path in (self.folder / name for name in (CLIPS_FILE, *self._companions)):
            _remove(path)
        for path in self._progress.iterdir():
            if path.suffix != ".lock":
                _remove(path)

    # Finished, pending and stored clips

    def _find_done(self) -> None:
        """What this process has done already."""
        self._part.mkdir(exist_ok=True)
        self._records = self._finished_shards(self.process)
        if not self._is_written(self.process):
            (self._part / DONE_FILE).unlink(missing_ok=True)
        finished = {key for record in self._records for key in _keys(record)}
        self._pending = self._find_pending(finished)
        self._stored = self._find_stored()
        self._done = finished.union(self._stored, *self._pending.values())

    def _part_folder(self, number: int) -> Path:
        return self._progress / f"part-{number:04d}"

    def _finished_shards(self, number: int) -> list[ShardRecord]:
        """Those of a process whose shards are there."""
        fields = map(_read_json, sorted(self._part_folder(number).glob("*.tar.json")))
        records = [ShardRecord.from_json(found) for found in fields if found is not None]
        return [record for record in records if (self.folder / record.name).is_file()]

    def _is_written(self, number: int) -> bool:
        for folder in (self._progress, self._part_folder(number)):  # on a network, lists are fresher than names
            if not folder.is_dir() or not list(folder.iterdir()):
                return False
        done = _read_json(self._part_folder(number) / DONE_FILE)
        return done is not None and all((self.folder / name).is_file() for name in done["shards"])

    def _find_pending(self, finished: set[str]) -> dict[str, StoredClips]:
        """By split, the stored clips that are in no finished shard. Those that are were left by a kill in between."""
        pending = {}
        for folder in sorted(self._part.glob(f"*{PENDING_SUFFIX}")):
            clips = StoredClips(sorted(folder.glob("*.tar")))
            for key in finished.intersection(clips):
                clips.path(key).unlink()
                clips.discard(key)
            pending[folder.name.removesuffix(PENDING_SUFFIX)] = clips
        return pending

    def _find_stored(self) -> StoredClips:
        """The clips of earlier work whose digests are still wanted, the latest work first."""
        found = StoredClips()
        wanted = _pairs(self._clips or {})
        for place in sorted(self._progress.glob(f"{STORED_FOLDER}/*"), reverse=True):
            digests = dict(_pairs(_read_json(place / CLIPS_FILE) or {}))
            clips = StoredClips(sorted(place.glob("*.tar")))
            for key in clips:
                if (key, digests.get(key)) in wanted and self.is_mine(key):
                    found.take_from(clips, key)
        return found

    # Writing

    def _in_order(
        self, split: str, clips: Iterable[TokenizedClip | DroppedClip]
    ) -> Iterator[tuple[TokenizedClip | DroppedClip, Path | None]]:
        """The clips of the shards to come, each with where it is stored already."""
        if self._footage is not None and self._clips is None:
            raise ValueError("got clips before it was told which to expect: call `expect` first")
        pending = self._pending.pop(split, StoredClips())
        if self._clips is None:
            yield from ((pending.read(key), pending.path(key)) for key in pending)
            yield from ((clip, None) for clip in clips)
            return
        coming = iter(clips)
        clip = next(coming, None)
        finished = {key for record in self._records for key in _keys(record)}
        for key in self._clips.get(split, {}):
            if key in finished or not self.is_mine(key):
                continue
            if clip is not None and _key_of(clip) == key:
                yield clip, None
                clip = next(coming, None)
            elif key in pending or key in self._stored:
                stored = pending if key in pending else self._stored
                yield stored.read(key), stored.path(key)
            else:
                raise ValueError(f"no clip came for {key!r} of {split}, which is neither stored nor left out")
        if clip is not None:
            raise ValueError(f"the clip {_key_of(clip)!r} came out of turn, or is none of {split}")

    def _next_shard(self, split: str) -> OpenShard:
        """Under the first name that no finished shard has."""
        taken = {record.name for record in self._records}
        middle = "" if self.num_processes == 1 else f"{self.process:04d}-"
        name = next(name for name in (f"{split}-{middle}{number:06d}.tar" for number in count()) if name not in taken)
        return OpenShard(path=self.folder / name, split=split, pending_folder=self._part / f"{split}{PENDING_SUFFIX}")

    def _close(self, shard: OpenShard) -> None:
        record = shard.close()
        write_json(self._part / f"{record.name}.json", record.to_json())
        self._records.append(record)
        self._done |= _keys(record)
        shard.forget_pending()


def _keys(record: ShardRecord) -> set[str]:
    return {sample.key for sample in record.samples} | {clip.key for clip in record.dropped}


def _key_of(clip: TokenizedClip | DroppedClip) -> str:
    return clip.key if isinstance(clip, DroppedClip) else clip.latents.key


def _pairs(clips: ClipDigests) -> set[tuple[str, str]]:
    return {pair for keys in clips.values() for pair in keys.items()}


def _split_order(split: str) -> tuple[int, str]:
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS)), split


def _read_json(path: Path) -> Any:
    """None when there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
