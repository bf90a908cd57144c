"""What is encoded together, and what comes out where one of several clips is at fault."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hh_train.data.annotate import Annotator
from hh_train.data.footage.files import DroppedClip, FootageFile
from hh_train.data.selection.clip_reading import WindowClip
from hh_train.data.selection.windows import ClipWindow
from hh_train.data.shards.format import TokenizedClip
from hh_train.stages.clip_encoder import BATCH_PIXELS, ClipEncoder
from hh_train.tokenizers import (
    HashedTextTokenizer,
    MelAudioTokenizer,
    PatchVideoTokenizer,
    Tokenizers,
    VideoTokenizer,
)
from hh_train.types import Clip, ClipMetadata, Prompt


class Means(PatchVideoTokenizer):
    """A codec whose latents are means, and which refuses black pictures."""

    def __init__(self) -> None:
        super().__init__(channels=1)
        self.sizes: list[int] = []

    def encode_many(self, clips: Sequence[Tensor]) -> list[Tensor]:
        self.sizes.append(len(clips))
        if any(int(clip.max()) == 0 for clip in clips):
            raise ValueError("a black picture")
        return [clip.float().mean().reshape(1, 1, 1, 1) for clip in clips]


def window(key: str, *, size: tuple[int, int] = (16, 16), num_frames: int = 5) -> ClipWindow:
    file = FootageFile(path=Path(f"{key}.mp4"), key=key, split="train")
    return ClipWindow(file=file, key=key, start_seconds=0.0, num_frames=num_frames, size=size)


def item(key: str, gray: int, notes: tuple[str, ...] = ()) -> WindowClip:
    frames = torch.full((5, 16, 16, 3), gray, dtype=torch.uint8)
    clip = Clip(frames=frames, frames_per_second=25.0, waveform=None, samples_per_second=16_000)
    metadata = ClipMetadata(key=key, prompt=Prompt(description=key))
    return WindowClip(window=window(key), clip=clip, metadata=metadata, notes=notes)


def encoder(video: VideoTokenizer, batch_clips: int = 3) -> ClipEncoder:
    codecs = Tokenizers(video=video, audio=MelAudioTokenizer(channels=4), text=HashedTextTokenizer())
    return ClipEncoder(codecs, Annotator(), batch_clips)


def test_neighbors_go_together_and_large_ones_alone() -> None:
    side = int((BATCH_PIXELS / 5 * 0.6) ** 0.5)
    windows = [window(name) for name in "abcd"] + [window(name, size=(side, side)) for name in "ef"] + [window("g")]
    keys = [[one.key for one in batch] for batch in encoder(Means()).batches(windows)]
    assert keys == [["a", "b", "c"], ["d", "e"], ["f", "g"]]
    assert encoder(Means()).batches([]) == []


def test_codecs_that_encode_one_by_one_get_one_by_one() -> None:
    single = PatchVideoTokenizer(channels=1)
    assert [len(batch) for batch in encoder(single).batches([window(name) for name in "abc"])] == [1, 1, 1]


def test_one_fault_costs_one_clip() -> None:
    codec = Means()
    lost = DroppedClip(key="lost", split="train", reason="cannot be read")
    items = [item("a", 10), item("black", 0), lost, item("b", 20, notes=("are gray",))]
    batches = [[window("a"), window("black"), window("lost")], [window("b")]]
    found = list(encoder(codec).encode_all(batches, iter(items), is_done=lambda key: key == "a"))
    assert codec.sizes == [2, 1, 1, 1]
    assert found[0] == DroppedClip(key="black", split="train", reason="a black picture")
    assert found[1] is lost
    assert isinstance(found[2], TokenizedClip) and len(found) == 3
    assert float(found[2].latents.video) == pytest.approx(20.0)
    assert found[2].notes == ("are gray",)
    assert found[2].metadata.prompt.description == "b"
