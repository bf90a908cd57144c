"""Latent clips to one token sequence and back.

A clip's tokens stand as [video | audio | text]; clips follow each other without padding. Video is cut into patches in
the channel-major order that the released weights read: "c (T pT) (H pH) (W pW) -> (T H W) (c pT pH pW)".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from hh_train.types import ClipLayout, LatentClip, PackedBatch


def patchify(latent: Float[Tensor, "C T h w"], patch: tuple[int, int, int]) -> Float[Tensor, "Nv Cv"]:
    """Cuts a latent into patches, time-major, each flattened channel-major.

    Raises ValueError if the patch does not divide the latent.
    """
    if any(size % step for size, step in zip(latent.shape[1:], patch, strict=True)):
        raise ValueError(
            f"video latent of T x h x w = {tuple(latent.shape[1:])} cannot be cut into patches of {patch}: "
            "choose a clip size that stride times patch divides"
        )
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


def pack(clips: Sequence[LatentClip], *, patch: tuple[int, int, int]) -> PackedBatch:
    """Packs clips in the given order.

    Raises ValueError, naming the clip, for a clip without tokens to generate, without text, with a latent that the
    patch does not divide or with values that are not finite, with given frames that it does not have or that the patch
    does not divide, and when two clips differ in channels.
    """
    if not clips:
        raise ValueError("cannot pack zero clips")
    _check_channels(clips)
    video, audio, text, layouts = [], [], [], []
    for clip in clips:
        _check_clip(clip)
        _check_given(clip, patch)
        if clip.video is not None:
            try:
                video.append(patchify(clip.video, patch))
            except ValueError as error:
                raise ValueError(f"clip {clip.key!r}: {error}") from error
        if clip.audio is not None:
            audio.append(clip.audio)
        text.append(clip.text)
        layouts.append(
            ClipLayout(
                video=(0, 0, 0) if clip.video is None else _grid(clip.video.shape, patch),
                audio=0 if clip.audio is None else clip.audio.shape[0],
                text=clip.text.shape[0],
            )
        )
    device, dtype = text[0].device, text[0].dtype
    video_channels = video[0].shape[1] if video else 0
    audio_channels = audio[0].shape[1] if audio else 0
    sequence_index = _sequence_index(layouts).to(device)
    return PackedBatch(
        video=torch.cat(video) if video else torch.zeros(0, video_channels, device=device, dtype=dtype),
        audio=torch.cat(audio) if audio else torch.zeros(0, audio_channels, device=device, dtype=dtype),
        text=torch.cat(text),
        video_is_given=_given(
            [(c.num_given_frames // patch[0]) * g.video[1] * g.video[2] for c, g in zip(clips, layouts, strict=True)],
            [g.num_video for g in layouts],
        ).to(device),
        audio_is_given=_given(
            [g.audio * c.audio_is_given for c, g in zip(clips, layouts, strict=True)], [g.audio for g in layouts]
        ).to(device),
        video_clip=_owners([g.num_video for g in layouts]).to(device),
        audio_clip=_owners([g.audio for g in layouts]).to(device),
        sequence_index=sequence_index,
        group_index=torch.argsort(sequence_index),
        layouts=tuple(layouts),
        keys=tuple(clip.key for clip in clips),
    )


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
    return shape[1] // patch[0], shape[2] // patch[1], shape[3] // patch[2]


def _check_clip(clip: LatentClip) -> None:
    present = {name: latent for name in ("video", "audio", "text") if (latent := getattr(clip, name)) is not None}
    if set(present) == {"text"}:
        raise ValueError(f"clip {clip.key!r} has neither video nor audio: there is nothing to generate")
    for name, latent in present.items():
        if latent.numel() == 0:
            raise ValueError(f"clip {clip.key!r}: its {name} has zero length; leave a missing modality None")
        if not torch.isfinite(latent).all():
            raise ValueError(f"clip {clip.key!r}: its {name} latent holds NaN or infinite values; tokenize it again")


def _check_given(clip: LatentClip, patch: tuple[int, int, int]) -> None:
    frames = 0 if clip.video is None else clip.video.shape[1]
    if not 0 <= clip.num_given_frames <= frames:
        raise ValueError(f"clip {clip.key!r}: {clip.num_given_frames} of its {frames} latent frames cannot be given")
    if clip.num_given_frames % patch[0]:
        raise ValueError(
            f"clip {clip.key!r}: {clip.num_given_frames} given latent frames cannot be cut into patches of {patch}: "
            "give a multiple, or take a patch of one latent frame"
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


def _sequence_index(layouts: Sequence[ClipLayout]) -> Tensor:
    """For two clips of (2 video, 1 audio, 1 text) and (1, 1, 1) the groups are v v v | a a | t t = 0 1 2 | 3 4 | 5 6,
    and the sequence is 0 1 3 5 | 2 4 6.
    """
    counts = torch.tensor([[layout.num_video, layout.audio, layout.text] for layout in layouts])
    starts = torch.cumsum(counts.T.flatten(), 0).roll(1)
    starts[0] = 0
    starts = starts.reshape(3, len(layouts)).T
    pieces = [
        torch.arange(start, start + count)
        for clip_starts, clip_counts in zip(starts.tolist(), counts.tolist(), strict=True)
        for start, count in zip(clip_starts, clip_counts, strict=True)
    ]
    return torch.cat(pieces)


def _given(given: Sequence[int], lengths: Sequence[int]) -> Tensor:
    """True for the first given[i] of each clip's lengths[i] tokens."""
    return torch.cat([torch.arange(length) < count for count, length in zip(given, lengths, strict=True)])


def _owners(lengths: Sequence[int]) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))


def with_unconditional(batch: PackedBatch, null_text: Float[Tensor, "Nt Ct"]) -> PackedBatch:
    """The pack followed by the same clips with the null prompt as their text: both passes of guidance in one."""
    layouts = (*batch.layouts, *(replace(layout, text=null_text.shape[0]) for layout in batch.layouts))
    sequence_index = _sequence_index(layouts).to(batch.sequence_index.device)
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
        group_index=torch.argsort(sequence_index),
        layouts=layouts,
        keys=batch.keys * 2,
    )
