"""Latent clips to one sequence and back."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hh_train.data.packing import num_tokens, pack, patchify, unpack, unpatchify, with_unconditional
from hh_train.types import ClipLayout, LatentClip

PATCH = (1, 2, 2)
Make = Callable[..., LatentClip]


def test_patches_are_channel_major() -> None:
    """Value 1000 c + 100 t + 10 row + column says where it came from."""
    c, t, h, w = torch.meshgrid(*(torch.arange(float(n)) for n in (3, 2, 4, 6)), indexing="ij")
    patches = patchify(1000 * c + 100 * t + 10 * h + w, PATCH)
    assert patches.shape == (2 * 2 * 3, 12)
    assert patches[0].tolist() == [base + offset for base in (0, 1000, 2000) for offset in (0, 1, 10, 11)]
    assert patches[1, 0] == 2 and patches[3, 0] == 20 and patches[6, 0] == 100  # width, then height, then time


@pytest.mark.parametrize("patch", [(1, 1, 1), (1, 2, 2), (2, 2, 1)])
def test_unpatchify_inverts(patch: tuple[int, int, int]) -> None:
    latent = torch.randn(3, 2, 4, 6)
    grid = (2 // patch[0], 4 // patch[1], 6 // patch[2])
    assert torch.equal(unpatchify(patchify(latent, patch), grid, patch), latent)


@given(
    patch=st.sampled_from([(1, 2, 2), (1, 1, 1), (2, 2, 4), (1, 4, 2), (2, 1, 3)]),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32]),
    steps=st.lists(st.tuples(*[st.integers(1, 3)] * 3), min_size=1, max_size=4),
    is_turned=st.booleans(),
)
def test_tokens_are_the_patches_of_each_clip(
    patch: tuple[int, int, int], dtype: torch.dtype, steps: list[tuple[int, int, int]], is_turned: bool
) -> None:
    """In the clip's own dtype, also where the latents do not lie in order in memory."""
    generator = torch.Generator().manual_seed(0)
    clips = []
    for number, counts in enumerate(steps):
        size = [count * step for count, step in zip(counts, patch, strict=True)]
        video = torch.randn(*size, 3, generator=generator).to(dtype).permute(3, 0, 1, 2)
        audio, text = (torch.randn(1 + number, width, generator=generator).to(dtype) for width in (5, 7))
        clips.append(
            LatentClip(key=str(number), video=video if is_turned else video.contiguous(), audio=audio, text=text)
        )
    batch = pack(clips, patch=patch)
    wanted = torch.cat([patchify(clip.video, patch) for clip in clips if clip.video is not None])
    assert batch.video.dtype == dtype and torch.equal(batch.video, wanted)
    assert torch.equal(batch.audio, torch.cat([clip.audio for clip in clips if clip.audio is not None]))
    assert torch.equal(batch.text, torch.cat([clip.text for clip in clips]))


def test_gradients_reach_the_latents() -> None:
    video = torch.randn(3, 2, 2, 2, requires_grad=True)
    batch = pack([LatentClip(key="a", video=video, audio=None, text=torch.zeros(1, 7))], patch=PATCH)
    (batch.video * torch.arange(12.0)).sum().backward()
    assert video.grad is not None and torch.equal(patchify(video.grad, PATCH), torch.arange(12.0).expand(2, 12))


def test_sequence_and_groups(make_clip: Make) -> None:
    """Two clips of (4 video, 5 audio, 3 text) and (2, 1, 2) tokens."""
    batch = pack([make_clip("a"), make_clip("b", video=(1, 2, 4), audio=1, text=2, seed=1)], patch=PATCH)
    assert batch.modality_counts == (6, 6, 5)
    assert batch.lengths == (12, 5) and batch.cumulative_lengths == (0, 12, 17)
    groups = torch.arange(17)
    sequence = groups[batch.sequence_index]
    assert sequence.tolist() == [0, 1, 2, 3, 6, 7, 8, 9, 10, 12, 13, 14, 4, 5, 11, 15, 16]
    assert torch.equal(sequence[batch.group_index], groups)
    assert batch.video_clip.tolist() == [0, 0, 0, 0, 1, 1] and batch.audio_clip.tolist() == [0] * 5 + [1]


def test_unpack_gives_the_clips_back(make_clip: Make) -> None:
    clips = [
        make_clip("all"),
        make_clip("silent", audio=None, seed=1),
        make_clip("sound", video=None, audio=9, seed=2),
        make_clip("image", video=(1, 4, 4), audio=None, seed=3),
    ]
    for clip, (video, audio) in zip(clips, unpack(pack(clips, patch=PATCH), patch=PATCH), strict=True):
        for ours, original in ((video, clip.video), (audio, clip.audio)):
            assert ours is original is None or torch.equal(ours, original)


def test_given_tokens_are_marked(make_clip: Make) -> None:
    batch = pack([make_clip("a", num_given_frames=1), make_clip("b", audio_is_given=True), make_clip("c")], patch=PATCH)
    assert batch.video_is_given.tolist() == [True, True, False, False] + [False] * 8
    assert batch.audio_is_given.tolist() == [False] * 5 + [True] * 5 + [False] * 5


def test_unconditional_half_has_the_null_text(make_clip: Make) -> None:
    batch = pack([make_clip("a"), make_clip("b", audio=None, seed=1)], patch=PATCH)
    null = torch.full((2, 7), 9.0)
    both = with_unconditional(batch, null)
    expected = pack(
        [make_clip("a"), make_clip("b", audio=None, seed=1)]
        + [LatentClip(key=k, video=c.video, audio=c.audio, text=null) for k, c in
           (("a", make_clip("a")), ("b", make_clip("b", audio=None, seed=1)))],
        patch=PATCH,
    )  # fmt: skip
    assert both.layouts == expected.layouts and both.keys == expected.keys
    for name in ("video", "audio", "text", "sequence_index", "group_index", "video_clip", "audio_clip"):
        assert torch.equal(getattr(both, name), getattr(expected, name)), name


def test_tokens_are_counted_as_packed(make_clip: Make) -> None:
    for clip in (make_clip("a"), make_clip("b", audio=None), make_clip("c", video=None)):
        assert num_tokens(clip, patch=PATCH) == pack([clip], patch=PATCH).num_tokens


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        ({"video": None, "audio": None}, "neither video nor audio"),
        ({"video": (2, 3, 4)}, "cannot be cut into patches"),
        ({"audio": 0}, "audio has zero length"),
        ({"video": (0, 4, 2)}, "video has zero length"),
        ({"text": 0}, "text has zero length"),
        ({"num_given_frames": 3}, "3 of its 2 latent frames cannot be given"),
        ({"video": None, "num_given_frames": 1}, "1 of its 0 latent frames cannot be given"),
        ({"num_given_frames": 2, "audio_is_given": True}, "all that it has is given"),
        ({"video": (1, 2, 2), "audio": None, "num_given_frames": 1}, "all that it has is given"),
        ({"video": None, "audio_is_given": True}, "all that it has is given"),
    ],
)
def test_bad_clips_are_named(make_clip: Make, clip: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"'bad'.*{message}"):
        pack([make_clip("good"), make_clip("bad", **clip)], patch=PATCH)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["video", "audio", "text"])
def test_values_that_are_not_finite_are_named(make_clip: Make, name: str, value: float) -> None:
    clip = make_clip("bad")
    getattr(clip, name).view(-1)[3] = value
    with pytest.raises(ValueError, match=rf"'bad'.*{name} latent holds NaN or infinite"):
        pack([make_clip("good"), clip], patch=PATCH)


def test_given_frames_are_whole_patches(make_clip: Make) -> None:
    patch = (2, 2, 2)
    with pytest.raises(ValueError, match=r"'bad': 1 given latent frames cannot be cut into patches of \(2, 2, 2\)"):
        pack([make_clip("bad", video=(4, 2, 2), num_given_frames=1)], patch=patch)
    batch = pack([make_clip("good", video=(4, 2, 2), num_given_frames=2)], patch=patch)
    assert batch.video_is_given.tolist() == [True, False]


def test_channels_must_agree(make_clip: Make) -> None:
    other = LatentClip(key="other", video=None, audio=torch.zeros(5, 4), text=torch.zeros(1, 7))
    with pytest.raises(ValueError, match="agree in audio channels"):
        pack([make_clip("a"), other], patch=PATCH)


def test_layout_counts() -> None:
    assert ClipLayout(video=(2, 3, 4), audio=5, text=6).num_tokens == 35
