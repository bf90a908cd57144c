"""Guidance against its definition, by two separate passes; and what is given stays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hh_train.data.packing import pack
from hh_train.flow.guidance import Guidance
from hh_train.inference.guided import GuidedVelocity, keeping_given
from hh_train.model.transformer import SandwichTransformer
from hh_train.types import LatentClip, PackedBatch

Make = Callable[..., LatentClip]
PATCH = (1, 2, 2)
NULL = torch.linspace(-1, 1, 14).reshape(2, 7)


@pytest.fixture
def clips(make_clip: Make) -> list[LatentClip]:
    """Of different sizes, one without sound and one without pictures."""
    return [
        make_clip("a", text=4),
        make_clip("b", video=(3, 2, 4), audio=None, seed=1),
        make_clip("c", video=None, audio=9, seed=2),
    ]


def two_passes(
    model: SandwichTransformer, clips: list[LatentClip], *, video_scale: Tensor | float, audio_scale: float
) -> tuple[Tensor, Tensor]:
    """u + w (c - u), with and without the text, one pass each."""
    with torch.no_grad():
        conditional = model(pack(clips, patch=PATCH))
        unconditional = model(pack([replace(clip, text=NULL) for clip in clips], patch=PATCH))
    return (
        unconditional.video + video_scale * (conditional.video - unconditional.video),
        unconditional.audio + audio_scale * (conditional.audio - unconditional.audio),
    )


def guided_velocity(
    model: SandwichTransformer, batch: PackedBatch, guidance: Guidance, t: Tensor | float
) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return GuidedVelocity(model, batch, guidance=guidance, null_text=NULL)((batch.video, batch.audio), t)


def test_each_modality_has_its_own_scale(tiny_model: SandwichTransformer, clips: list[LatentClip]) -> None:
    batch = pack(clips, patch=PATCH)
    video, audio = guided_velocity(tiny_model, batch, Guidance(video=5.0, audio=2.0), 0.7)
    expected = two_passes(tiny_model, clips, video_scale=5.0, audio_scale=2.0)
    torch.testing.assert_close(video, expected[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(audio, expected[1], atol=1e-4, rtol=1e-4)
    for other in (1.0, 2.0):
        unlike = two_passes(tiny_model, clips, video_scale=other, audio_scale=1.0)
        assert (video - unlike[0]).abs().max() > 0.1 and (audio - unlike[1]).abs().max() > 0.1


@pytest.mark.parametrize(("level", "scale"), [(0.51, 5.0), (0.5, 2.0), (0.1, 2.0)])
def test_video_has_another_scale_at_low_noise(
    tiny_model: SandwichTransformer, clips: list[LatentClip], level: float, scale: float
) -> None:
    guidance = Guidance(video=5.0, audio=4.0, video_low_noise=2.0, low_noise_below=0.5)
    video, audio = guided_velocity(tiny_model, pack(clips, patch=PATCH), guidance, level)
    expected = two_passes(tiny_model, clips, video_scale=scale, audio_scale=4.0)
    torch.testing.assert_close(video, expected[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(audio, expected[1], atol=1e-4, rtol=1e-4)


def test_every_clip_is_guided_at_its_own_noise_level(tiny_model: SandwichTransformer, clips: list[LatentClip]) -> None:
    guidance = Guidance(video=5.0, audio=4.0, video_low_noise=2.0, low_noise_below=0.5)
    batch = pack(clips, patch=PATCH)
    video, _ = guided_velocity(tiny_model, batch, guidance, torch.tensor([0.9, 0.2, 0.9]))
    scale = torch.tensor([5.0, 2.0, 5.0])[batch.video_clip][:, None]
    expected, _ = two_passes(tiny_model, clips, video_scale=scale, audio_scale=4.0)
    torch.testing.assert_close(video, expected, atol=1e-4, rtol=1e-4)


def test_without_guidance_the_text_alone_is_asked(tiny_model: SandwichTransformer, clips: list[LatentClip]) -> None:
    seen: list[int] = []
    tiny_model.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0].num_clips))
    batch = pack(clips, patch=PATCH)
    video, audio = guided_velocity(tiny_model, batch, Guidance(), 0.7)
    guided_velocity(tiny_model, batch, Guidance(audio=1.5), 0.7)
    assert seen == [3, 6]
    with torch.no_grad():
        prediction = tiny_model(batch)
    assert torch.equal(video, prediction.video) and torch.equal(audio, prediction.audio)


def test_the_state_is_what_the_model_sees(tiny_model: SandwichTransformer, clips: list[LatentClip]) -> None:
    """The latents of the pack are those of the data, and must not leak into the walk."""
    batch = pack(clips, patch=PATCH)
    state = (torch.randn_like(batch.video), torch.randn_like(batch.audio))
    velocity = GuidedVelocity(tiny_model, batch, guidance=Guidance(video=2.0, audio=2.0), null_text=NULL)
    emptied = batch.with_latents(torch.zeros_like(batch.video), torch.zeros_like(batch.audio))
    blind = GuidedVelocity(tiny_model, emptied, guidance=Guidance(video=2.0, audio=2.0), null_text=NULL)
    with torch.no_grad():
        ours, theirs = velocity(state, 0.5), blind(state, 0.5)
        at_data = velocity((batch.video, batch.audio), 0.5)
    assert torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1])
    assert (ours[0] - at_data[0]).abs().max() > 0.1 and (ours[1] - at_data[1]).abs().max() > 0.1


def test_keep_restores_given_tokens_and_no_others(make_clip: Make) -> None:
    clips = [
        make_clip("frame", num_given_frames=1),
        make_clip("sound", audio_is_given=True, seed=1),
        make_clip("free", seed=2),
    ]
    batch = pack(clips, patch=PATCH)
    state = (torch.randn_like(batch.video), torch.randn_like(batch.audio))
    video, audio = keeping_given(batch)(state)
    first_frame = (torch.arange(12) < 2) & (batch.video_clip == 0)  # 2 latent frames of 2x1 patches each
    for kept, given, own, is_given in (
        (video, batch.video, state[0], first_frame),
        (audio, batch.audio, state[1], batch.audio_clip == 1),
    ):
        assert torch.equal(kept[is_given], given[is_given])
        assert torch.equal(kept[~is_given], own[~is_given])
