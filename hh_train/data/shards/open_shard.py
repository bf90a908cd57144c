"""The shard in hand. Its clips are stored one by one; the shard itself appears when it is complete."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from hh_train.data.footage.files import DroppedClip
from hh_train.data.shards.format import STORED_DTYPE, ShardWriter, TokenizedClip, sample_record
from hh_train.data.shards.manifest import Moments, SampleRecord, ShardRecord


class OpenShard:
    """Collects the clips of a shard, what is to be said of them, and those that were left out on the way.

    Args:
        path: of the finished shard.
        split: of all its clips.
        pending_folder: where each clip is written as soon as it comes.
    """

    def __init__(self, *, path: Path, split: str, pending_folder: Path) -> None:
        self.path = path
        self.split = split
        self.pending_folder = pending_folder
        self.samples: list[SampleRecord] = []
        self.dropped: list[DroppedClip] = []
        self.num_silent = 0
        self.notes: Counter[str] = Counter()
        self._video, self._audio = Moments(), Moments()
        self._writer: ShardWriter | None = None
        self._pending: list[Path] = []
        taken = [int(path.stem) for path in pending_folder.glob("*.tar")]
        self._next_pending = max(taken, default=-1) + 1

    @property
    def num_bytes(self) -> int:
        return 0 if self._writer is None else self._writer.num_bytes

    def add(self, clip: TokenizedClip | DroppedClip, *, stored_at: Path | None = None) -> None:
        """Adds a clip, which lies on disk already at `stored_at` or is put there; one that cannot be is left out."""
        if isinstance(clip, DroppedClip):
            self.dropped.append(clip)
            return
        latents = clip.latents
        try:
            self._pending.append(self._store(clip) if stored_at is None else stored_at)
            self._writer = self._writer or self._opened()
            span = self._writer.add(clip)
        except ValueError as error:
            self.dropped.append(DroppedClip(key=latents.key, split=self.split, reason=str(error)))
            return
        self.samples.append(sample_record(latents, span))
        self.num_silent += latents.audio is None
        self.notes.update(clip.notes)
        self._video += Moments.of(latents.video, STORED_DTYPE)
        self._audio += Moments.of(latents.audio, STORED_DTYPE)

    def close(self) -> ShardRecord:
        """Writes the shard, which appears complete or not at all."""
        (self._writer or self._opened()).close()
        return ShardRecord(
            name=self.path.name,
            split=self.split,
            num_bytes=self.path.stat().st_size,
            samples=tuple(self.samples),
            dropped=tuple(self.dropped),
            video=self._video,
            audio=self._audio,
            num_silent=self.num_silent,
            notes=dict(sorted(self.notes.items())),
        )

    def forget_pending(self) -> None:
        """Removes the clips from where each was written by itself: they are in the finished shard."""
        for path in self._pending:
            if path.parent == self.pending_folder:
                path.unlink(missing_ok=True)

    def _opened(self) -> ShardWriter:
        """Grows where a killed run leaves it to be tidied up with the single clips."""
        self.pending_folder.mkdir(exist_ok=True)
        return ShardWriter(self.path, grows_at=self.pending_folder / ".shard.partial")

    def _store(self, clip: TokenizedClip) -> Path:
        self.pending_folder.mkdir(exist_ok=True)
        path = self.pending_folder / f"{self._next_pending:08d}.tar"
        single = ShardWriter(path)
        try:
            single.add(clip)
        except ValueError:
            single.discard()
            raise
        single.close()
        self._next_pending += 1
        return path
