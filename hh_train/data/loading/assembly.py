"""Stored latents to a packed batch in one go: what `pack` gives, in float32, at the speed of memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from hh_train.data.packing import patchify
from hh_train.types import ClipLayout, LatentClip, PackedBatch

_WORDS = {4: torch.int32, 8: torch.int64}
"""Integers as wide as a row of a patch, by bytes."""


def assemble(clips: Sequence[LatentClip], *, patch: tuple[int, int, int]) -> PackedBatch:
    """Packs clips in the given order, as `packing.pack` does, with all latents as float32.

    Clips must have been planned: patches divide their latents, all have text and something to generate.

    Raises:
        ValueError: values that are not finite (which clip they are in is not said), given frames that the patch does
            not divide, or clips that differ in channels.
    """
    layouts = [_layout(clip, patch) for clip in clips]
    counts = np.array([(layout.num_video, layout.audio, layout.text) for layout in layouts], dtype=np.int64)
    index = _sequence_index(counts)
    group_index = np.empty_like(index)
    group_index[index] = np.arange(len(index))
    given = np.array(
        [
            (clip.num_given_frames // patch[0] * layout.video[1] * layout.video[2], layout.audio * clip.audio_is_given)
            for clip, layout in zip(clips, layouts, strict=True)
        ],
        dtype=np.int64,
    )
    owners = [np.repeat(np.arange(len(clips)), counts[:, modality]) for modality in range(2)]
    is_given = [_firsts(counts[:, modality], given[:, modality]) for modality in range(2)]
    batch = PackedBatch(
        video=_video(clips, layouts, counts[:, 0], patch),
        audio=_joined([clip.audio for clip in clips], counts[:, 1]),
        text=_joined([clip.text for clip in clips], counts[:, 2]),
        video_is_given=torch.from_numpy(is_given[0]),
        audio_is_given=torch.from_numpy(is_given[1]),
        video_clip=torch.from_numpy(owners[0]),
        audio_clip=torch.from_numpy(owners[1]),
        sequence_index=torch.from_numpy(index),
        group_index=torch.from_numpy(group_index),
        layouts=tuple(layouts),
        keys=tuple(clip.key for clip in clips),
    )
    for name in ("video", "audio", "text"):
        if not bool(getattr(batch, name).sum().isfinite()):  # one value that is not makes a sum that is not
            raise ValueError(f"the {name} latents of a batch hold NaN or infinite values")
    return batch


def _layout(clip: LatentClip, patch: tuple[int, int, int]) -> ClipLayout:
    grid = (0, 0, 0)
    if clip.num_given_frames % patch[0]:
        raise ValueError(
            f"clip {clip.key!r}: {clip.num_given_frames} given latent frames cannot be cut into patches of {patch}: "
            "set image_to_video_share to 0, or take a patch of one latent frame"
        )
    if clip.video is not None:
        _, frames, rows, columns = clip.video.shape
        grid = (frames // patch[0], rows // patch[1], columns // patch[2])
    return ClipLayout(video=grid, audio=0 if clip.audio is None else clip.audio.shape[0], text=clip.text.shape[0])


def _sequence_index(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where in the groups (all video, all audio, all text) each token of the sequence (clip by clip) stands."""
    of_groups = counts.T.reshape(-1)
    group_starts = (np.cumsum(of_groups) - of_groups).reshape(3, -1).T.reshape(-1)
    of_sequence = counts.reshape(-1)
    sequence_starts = np.cumsum(of_sequence) - of_sequence
    found: NDArray[np.int64] = np.repeat(group_starts - sequence_starts, of_sequence) + np.arange(of_sequence.sum())
    return found


def _firsts(counts: NDArray[np.int64], firsts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """True for the first so many tokens of each clip."""
    starts = np.cumsum(counts) - counts
    place: NDArray[np.int64] = np.arange(counts.sum()) - np.repeat(starts, counts)
    return np.asarray(place < np.repeat(firsts, counts))


def _joined(latents: Sequence[Tensor | None], counts: NDArray[np.int64]) -> Float[Tensor, "N C"]:
    there = [latent for latent in latents if latent is not None]
    _check_channels({latent.shape[1] for latent in there})
    joined = torch.empty(int(counts.sum()), there[0].shape[1] if there else 0)
    start = 0
    for latent in there:
        joined[start : start + latent.shape[0]].copy_(latent)
        start += latent.shape[0]
    return joined


def _check_channels(found: set[int]) -> None:
    if len(found) > 1:
        raise ValueError(f"clips of one batch must agree in channels; got {sorted(found)}")


def _video(
    clips: Sequence[LatentClip], layouts: Sequence[ClipLayout], counts: NDArray[np.int64], patch: tuple[int, int, int]
) -> Float[Tensor, "Nv Cv"]:
    there = [(clip.video, layout) for clip, layout in zip(clips, layouts, strict=True) if clip.video is not None]
    if not there:
        return torch.zeros(0, 0)
    _check_channels({video.shape[0] for video, _ in there})
    first = there[0][0]
    cut = torch.empty(int(counts.sum()), first.shape[0] * patch[0] * patch[1] * patch[2], dtype=first.dtype)
    start = 0
    for video, layout in there:
        _cut_into(cut[start : start + layout.num_video], video, patch)
        start += layout.num_video
    return cut.float()


def _cut_into(patches: Float[Tensor, "Nv Cv"], video: Float[Tensor, "C T h w"], patch: tuple[int, int, int]) -> None:
    """`patchify` into memory that is there; a row of a patch moves as one integer where there is one so wide."""
    pt, ph, pw = patch
    word = _WORDS.get(pw * video.element_size())
    if word is None or video.dtype != patches.dtype or not video.is_contiguous() or video.data_ptr() % word.itemsize:
        patches.copy_(patchify(video, patch))
        return
    channels, frames, rows, columns = video.shape
    time, height, width = frames // pt, rows // ph, columns // pw
    source = video.view(word).numpy().reshape(channels, time, pt, height, ph, width)
    target = patches.view(word).numpy().reshape(time, height, width, channels, pt, ph)
    for i in range(pt):
        for j in range(ph):
            target[..., i, j] = source[:, :, i, :, j].transpose(1, 2, 3, 0)
