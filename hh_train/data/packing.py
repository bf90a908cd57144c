"""Latent clips to one token sequence and back.

A clip's tokens stand as [video | audio | text]; clips follow each other without padding. Video is cut into patches in
the channel-major order that the released weights read: "c (T pT) (H pH) (W pW) -> (T H W) (c pT pH pW)".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from hh_train.types import ClipLayout, LatentClip, PackedBatch

PATCH_ORDER = "c pT pH pW in, pT pH pW c out"
"""How the values of a patch follow each other in a video token, on the model's input and on its output."""
_WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers as wide as a row of a patch, by bytes."""


def patchify(latent: Float[Tensor, "C T h w"], patch: tuple[int, int, int]) -> Float[Tensor, "Nv Cv"]:
    """Cuts a latent into patches, time-major, each flattened channel-major.

    Raises ValueError if the patch does not divide the latent.
    """
    channels = latent.shape[0]
    (time, height, width), (pt, ph, pw) = _grid(latent.shape, patch), patch
    cut = latent.reshape(channels, time, pt, height, ph, width, pw)
    return cut.permute(1, 3, 5, 0, 2, 4, 6).reshape(time * height * width, channels * pt * ph * pw)


def unpatchify(
    patches: Float[Tensor, "Nv Cv"], grid: tuple[int, int, int], patch: tuple[int, int, int]
) -> Float[Tensor, "C T h w"]:
    """Inverse of `patchify` for a clip of `grid` = (time, height, width) patches."""
    (time, height, width), (pt, ph, pw) = grid, patch
    channels = patches.shape[1] // (pt * ph * pw)
    cut = patches.reshape(time, height, width, channels, pt, ph, pw)
    return cut.permute(3, 0, 4, 1, 5, 2, 6).reshape(channels, time * pt, height * ph, width * pw)


def pack(clips: Sequence[LatentClip], *, patch: tuple[int, int, int], are_known_finite: bool = False) -> PackedBatch:
    """Packs clips in the given order, in their own dtype and on their device.

    With `are_known_finite` the values are not looked at.

    Raises ValueError, naming the clip, for a clip without tokens to generate, without text, with a latent that the
    patch does not divide or with values that are not finite, with given frames that it does not have or that the patch
    does not divide, and when two clips differ in channels.
    """
    if not clips:
        raise ValueError("cannot pack zero clips")
    for clip in clips:
        _check_clip(clip, patch)
    _check_channels(clips)
    layouts = tuple(_layout(clip, patch) for clip in clips)
    counts = np.array([(layout.num_video, layout.audio, layout.text) for layout in layouts], dtype=np.int64)
    given = np.array(
        [
            (clip.num_given_frames // patch[0] * layout.video[1] * layout.video[2], layout.audio * clip.audio_is_given)
            for clip, layout in zip(clips, layouts, strict=True)
        ],
        dtype=np.int64,
    )
    owners = [np.repeat(np.arange(len(clips)), counts[:, modality]) for modality in range(2)]
    is_given = [_firsts(counts[:, modality], given[:, modality]) for modality in range(2)]
    sequence_index, group_index = _indexes(counts)
    device = clips[0].text.device
    batch = PackedBatch(
        video=_cut([clip.video for clip in clips], patch, like=clips[0].text),
        audio=_joined([clip.audio for clip in clips], like=clips[0].text),
        text=_joined([clip.text for clip in clips], like=clips[0].text),
        video_is_given=torch.from_numpy(is_given[0]).to(device),
        audio_is_given=torch.from_numpy(is_given[1]).to(device),
        video_clip=torch.from_numpy(owners[0]).to(device),
        audio_clip=torch.from_numpy(owners[1]).to(device),
        sequence_index=torch.from_numpy(sequence_index).to(device),
        group_index=torch.from_numpy(group_index).to(device),
        layouts=layouts,
        keys=tuple(clip.key for clip in clips),
    )
    if not are_known_finite and not all(_is_finite(tokens) for tokens in (batch.video, batch.audio, batch.text)):
        key, name = next((clip.key, name) for clip in clips if (name := not_finite(clip)) is not None)
        raise ValueError(f"clip {key!r}: its {name} latent holds NaN or infinite values; tokenize it again")
    return batch


def not_finite(clip: LatentClip) -> str | None:
    """Which of the clip's latents, "video", "audio" or "text", holds NaN or infinite values; None if none does."""
    latents = {"video": clip.video, "audio": clip.audio, "text": clip.text}
    return next((name for name, latent in latents.items() if latent is not None and not _is_finite(latent)), None)


def _is_finite(latent: Tensor) -> bool:
    """In one pass over the values, with nothing allocated: the least and the greatest are NaN where any value is."""
    return latent.numel() == 0 or all(math.isfinite(extreme) for extreme in torch.aminmax(latent.detach()))


def unpack(
    batch: PackedBatch, *, patch: tuple[int, int, int]
) -> list[tuple[Float[Tensor, "_ _ _ _"] | None, Float[Tensor, "_ _"] | None]]:
    """The latents of each clip of a pack: video [C T h w] and audio [L Ca], None for what the clip does not have."""
    videos = batch.video.split([layout.num_video for layout in batch.layouts])
    audios = batch.audio.split([layout.audio for layout in batch.layouts])
    return [
        (
            unpatchify(video, layout.video, patch) if layout.num_video else None,
            audio if layout.audio else None,
        )
        for video, audio, layout in zip(videos, audios, batch.layouts, strict=True)
    ]


def num_tokens(clip: LatentClip, *, patch: tuple[int, int, int]) -> int:
    """Tokens that a clip takes in a pack."""
    video = 0 if clip.video is None else clip.video[0].numel() // (patch[0] * patch[1] * patch[2])
    audio = 0 if clip.audio is None else clip.audio.shape[0]
    return video + audio + clip.text.shape[0]


def _grid(shape: Sequence[int], patch: tuple[int, int, int]) -> tuple[int, int, int]:
    """Patches along time, height and width of a latent [C T h w]; ValueError if the patch does not divide it."""
    if shape[1] % patch[0] or shape[2] % patch[1] or shape[3] % patch[2]:
        raise ValueError(
            f"video latent of T x h x w = {tuple(shape[1:])} cannot be cut into patches of {patch}: "
            "choose a clip size that stride times patch divides"
        )
    return shape[1] // patch[0], shape[2] // patch[1], shape[3] // patch[2]


def _check_clip(clip: LatentClip, patch: tuple[int, int, int]) -> None:
    if clip.video is None and clip.audio is None:
        raise ValueError(f"clip {clip.key!r} has neither video nor audio: there is nothing to generate")
    for name, latent in (("video", clip.video), ("audio", clip.audio), ("text", clip.text)):
        if latent is not None and latent.numel() == 0:
            raise ValueError(f"clip {clip.key!r}: its {name} has zero length; leave a missing modality None")
    if clip.video is not None:
        try:
            _grid(clip.video.shape, patch)
        except ValueError as error:
            raise ValueError(f"clip {clip.key!r}: {error}") from error
    _check_given(clip, patch)


def _check_given(clip: LatentClip, patch: tuple[int, int, int]) -> None:
    frames = 0 if clip.video is None else clip.video.shape[1]
    if not 0 <= clip.num_given_frames <= frames:
        raise ValueError(f"clip {clip.key!r}: {clip.num_given_frames} of its {frames} latent frames cannot be given")
    if clip.num_given_frames % patch[0]:
        raise ValueError(
            f"clip {clip.key!r}: {clip.num_given_frames} given latent frames cannot be cut into patches of {patch}: "
            "give a multiple, set image_to_video_share to 0, or take a patch of one latent frame"
        )
    if clip.num_given_frames == frames and (clip.audio is None or clip.audio_is_given):
        raise ValueError(f"clip {clip.key!r}: all that it has is given: there is nothing to generate")


def _check_channels(clips: Sequence[LatentClip]) -> None:
    for name, axis in (("video", 0), ("audio", 1), ("text", 1)):
        found = {latent.shape[axis]: clip.key for clip in clips if (latent := getattr(clip, name)) is not None}
        if len(found) > 1:
            raise ValueError(
                f"clips of one pack must agree in {name} channels; got {found} (channels: a clip that has them)"
            )


def _layout(clip: LatentClip, patch: tuple[int, int, int]) -> ClipLayout:
    return ClipLayout(
        video=(0, 0, 0) if clip.video is None else _grid(clip.video.shape, patch),
        audio=0 if clip.audio is None else clip.audio.shape[0],
        text=clip.text.shape[0],
    )


def _indexes(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where in the groups (all video, all audio, all text) each token of the sequence (clip by clip) stands, and back.

    For `counts` of two clips of (2 video, 1 audio, 1 text) and (1, 1, 1) the groups are v v v | a a | t t
    = 0 1 2 | 3 4 | 5 6, and the sequence is 0 1 3 5 | 2 4 6.
    """
    of_groups = counts.T.reshape(-1)
    group_starts = (np.cumsum(of_groups) - of_groups).reshape(3, -1).T.reshape(-1)
    of_sequence = counts.reshape(-1)
    sequence_starts = np.cumsum(of_sequence) - of_sequence
    sequence_index: NDArray[np.int64] = np.repeat(group_starts - sequence_starts, of_sequence)
    sequence_index += np.arange(len(sequence_index))
    group_index = np.empty_like(sequence_index)
    group_index[sequence_index] = np.arange(len(sequence_index))
    return sequence_index, group_index


def _firsts(counts: NDArray[np.int64], firsts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """True for the first so many tokens of each clip."""
    starts = np.cumsum(counts) - counts
    place: NDArray[np.int64] = np.arange(counts.sum()) - np.repeat(starts, counts)
    return np.asarray(place < np.repeat(firsts, counts))


def _joined(latents: Sequence[Tensor | None], *, like: Tensor) -> Float[Tensor, "N C"]:
    there = [latent for latent in latents if latent is not None]
    return torch.cat(there) if there else like.new_zeros(0, 0)


def _cut(videos: Sequence[Tensor | None], patch: tuple[int, int, int], *, like: Tensor) -> Float[Tensor, "Nv Cv"]:
    """`patchify` of all videos, one after the other."""
    there = [video for video in videos if video is not None]
    if not there:
        return like.new_zeros(0, 0)
    word = _WORDS.get(patch[2] * there[0].element_size())
    if word is None or not all(_is_plain(video, there[0].dtype, word) for video in there):
        return torch.cat([patchify(video, patch) for video in there])
    size = math.prod(patch)
    counts = [video[0].numel() // size for video in there]
    patches = torch.empty(sum(counts), there[0].shape[0] * size, dtype=there[0].dtype)
    words, start = patches.view(word).numpy(), 0
    pt, ph, _ = patch
    for video, count in zip(there, counts, strict=True):
        time, height, width = _grid(video.shape, patch)
        source = video.view(word).numpy().reshape(-1, time, pt, height, ph, width)
        target = words[start : start + count].reshape(time, height, width, -1, pt, ph)
        for i in range(pt):
            for j in range(ph):
                target[..., i, j] = source[:, :, i, :, j].transpose(1, 2, 3, 0)
        start += count
    return patches


def _is_plain(video: Tensor, dtype: torch.dtype, word: torch.dtype) -> bool:
    """Whether rows of its patches can be moved as integers."""
    is_there = video.device.type == "cpu" and video.is_contiguous() and not video.requires_grad
    return is_there and video.dtype == dtype and video.data_ptr() % word.itemsize == 0


def with_unconditional(batch: PackedBatch, null_text: Float[Tensor, "Nt Ct"]) -> PackedBatch:
    """The pack followed by the same clips with the null prompt as their text: both passes of guidance in one."""
    layouts = (*batch.layouts, *(replace(layout, text=null_text.shape[0]) for layout in batch.layouts))
    counts = np.array([(layout.num_video, layout.audio, layout.text) for layout in layouts], dtype=np.int64)
    sequence_index, group_index = (torch.from_numpy(i).to(batch.sequence_index.device) for i in _indexes(counts))
    return replace(
        batch,
        video=batch.video.repeat(2, 1),
        audio=batch.audio.repeat(2, 1),
        text=torch.cat([batch.text, null_text.to(batch.text).repeat(batch.num_clips, 1)]),
        video_is_given=batch.video_is_given.repeat(2),
        audio_is_given=batch.audio_is_given.repeat(2),
        video_clip=torch.cat([batch.video_clip, batch.video_clip + batch.num_clips]),
        audio_clip=torch.cat([batch.audio_clip, batch.audio_clip + batch.num_clips]),
        sequence_index=sequence_index,
        group_index=group_index,
        layouts=layouts,
        keys=batch.keys * 2,
    )
