"""Decoded clips to latents, several at a time. What is encoded together does not depend on where a run was killed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from hh_train.data.annotate import Annotator
from hh_train.data.footage.files import DroppedClip
from hh_train.data.selection.clip_reading import WindowClip
from hh_train.data.selection.windows import ClipWindow
from hh_train.data.shards.format import TokenizedClip
from hh_train.tokenizers import Tokenizers
from hh_train.types import ClipMetadata, LatentClip

BATCH_PIXELS = 300_000_000
"""Pixels of all frames of the clips that wait to be encoded together, so that large ones come alone: 0.9 GB."""

Item = WindowClip | DroppedClip


@runtime_checkable
class BatchTokenizer(Protocol):
    """A codec that encodes several clips faster together than one by one."""

    def encode_many(self, inputs: Sequence[Any], /) -> list[Tensor]: ...


@dataclass(frozen=True)
class ClipEncoder:
    """Encodes clips with the codecs, and says what is known about them.

    Args:
        batch_clips: the most that go together, where a codec has `encode_many`.
    """

    tokenizers: Tokenizers
    annotator: Annotator
    batch_clips: int

    def batches(self, windows: Sequence[ClipWindow]) -> list[list[ClipWindow]]:
        """Windows that are encoded together: neighbors in the order of all windows, whichever are done already."""
        codecs = (self.tokenizers.video, self.tokenizers.audio, self.tokenizers.text)
        most = self.batch_clips if any(isinstance(codec, BatchTokenizer) for codec in codecs) else 1
        found: list[list[ClipWindow]] = []
        pixels = 0
        for window in windows:
            more = window.num_frames * window.size[0] * window.size[1]
            if not found or len(found[-1]) >= most or pixels + more > BATCH_PIXELS:
                found.append([])
                pixels = 0
            found[-1].append(window)
            pixels += more
        return found

    def encode_all(
        self, batches: Iterable[Sequence[ClipWindow]], items: Iterator[Item], *, is_done: Callable[[str], bool]
    ) -> Iterator[TokenizedClip | DroppedClip]:
        """The clips of batches that are not done. `items` are those of all their windows, in their order."""
        for batch in batches:
            for window, encoded in zip(batch, self._batch(list(islice(items, len(batch)))), strict=True):
                if not is_done(window.key):
                    yield encoded

    def annotated(self, item: WindowClip) -> ClipMetadata:
        """What is known about a clip. Raises ValueError when a backend fails on it."""
        window = item.window
        return self.annotator.annotate(
            item.clip, item.metadata, is_part=window.is_part, start_seconds=window.start_seconds, shots=window.shots
        )

    def _batch(self, items: Sequence[Item]) -> Iterable[TokenizedClip | DroppedClip]:
        clips = [item for item in items if isinstance(item, WindowClip)]
        if len(clips) > 1:
            try:
                encoded = iter(self._together(clips))
                return [next(encoded) if isinstance(item, WindowClip) else item for item in items]
            except ValueError:
                pass  # one of them is at fault: one by one it tells its reason, and the others are kept
        return map(self._alone, items)

    def _alone(self, item: Item) -> TokenizedClip | DroppedClip:
        if isinstance(item, DroppedClip):
            return item
        try:
            return self._together([item])[0]
        except ValueError as error:
            return DroppedClip(key=item.window.key, split=item.window.split, reason=str(error))

    def _together(self, clips: Sequence[WindowClip]) -> list[TokenizedClip]:
        metadata = [self.annotated(item) for item in clips]
        sounds = [item.clip.waveform for item in clips if item.clip.waveform is not None]
        video = _encode_many(self.tokenizers.video, [item.clip.frames for item in clips])
        audio = iter(_encode_many(self.tokenizers.audio, sounds))
        text = _encode_many(self.tokenizers.text, [known.prompt.compose() for known in metadata])
        return [
            TokenizedClip(
                latents=LatentClip(
                    key=item.window.key,
                    video=video[index],
                    audio=None if item.clip.waveform is None else next(audio),
                    text=text[index],
                ),
                metadata=metadata[index],
                notes=item.notes,
            )
            for index, item in enumerate(clips)
        ]


def _encode_many(codec: Any, inputs: Sequence[Any]) -> list[Tensor]:
    return codec.encode_many(inputs) if isinstance(codec, BatchTokenizer) else [codec.encode(value) for value in inputs]
