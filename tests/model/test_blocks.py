"""Local attention in the layers: what reaches what, that clips stay apart, and what is counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hh_train.data.packing import pack
from hh_train.model.config import ModelConfig
from hh_train.model.transformer import SandwichTransformer
from hh_train.types import LatentClip

PATCH = (1, 2, 2)
FRAMES = 7


def drawn(config: ModelConfig) -> SandwichTransformer:
    torch.manual_seed(0)
    model = SandwichTransformer(config=config, compute_dtype="float32")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def with_local_layers(config: ModelConfig, layers: tuple[int, ...], frames: int = 1) -> ModelConfig:
    return replace(config, local_attention_layers=layers, local_attention_frames=frames)


def reach(model: SandwichTransformer, clip: LatentClip) -> tuple[list[bool], bool]:
    """Which frames of the prediction follow a change of the clip's first latent frame, and whether the audio does."""
    assert clip.video is not None
    changed = clip.video.clone()
    changed[:, 0] += 1
    with torch.no_grad():
        before, after = (model(pack([replace(clip, video=video)], patch=PATCH)) for video in (clip.video, changed))
    moved = (after.video - before.video).abs().amax(-1).unflatten(0, (FRAMES, -1)).amax(-1) > 1e-6
    return moved.tolist(), bool(((after.audio - before.audio).abs() > 1e-6).any())


def test_one_local_layer_reaches_its_window_and_all_audio(
    tiny_config: ModelConfig, make_clip: Callable[..., LatentClip]
) -> None:
    one_layer = replace(tiny_config, num_layers=1, mm_layers=(), gelu7_layers=())
    clip = make_clip("a", video=(FRAMES, 4, 2), audio=5)
    for window in (0, 1, 3):
        model = drawn(with_local_layers(one_layer, (0,), window))
        assert reach(model, clip) == ([frame <= window for frame in range(FRAMES)], True)
    assert reach(drawn(one_layer), clip) == ([True] * FRAMES, True)


def test_audio_and_text_see_and_are_seen_by_every_frame(
    tiny_config: ModelConfig, make_clip: Callable[..., LatentClip]
) -> None:
    model = drawn(with_local_layers(replace(tiny_config, num_layers=1, mm_layers=(), gelu7_layers=()), (0,), 0))
    clip = make_clip("a", video=(FRAMES, 4, 2), audio=5)
    assert clip.audio is not None
    with torch.no_grad():
        base = model(pack([clip], patch=PATCH)).video
        for other in (replace(clip, audio=clip.audio + 1), replace(clip, text=clip.text + 1)):
            moved = (model(pack([other], patch=PATCH)).video - base).abs().amax(-1)
            assert (moved > 1e-6).all()


def test_a_silent_clip_reaches_far_by_text_alone(
    tiny_config: ModelConfig, make_clip: Callable[..., LatentClip]
) -> None:
    model = drawn(with_local_layers(replace(tiny_config, num_layers=2, mm_layers=(0,), gelu7_layers=()), (0, 1), 1))
    moved, _ = reach(model, make_clip("a", video=(FRAMES, 4, 2), audio=None))
    assert moved == [True] * FRAMES


def test_only_the_listed_layers_are_local(tiny_config: ModelConfig) -> None:
    model = drawn(with_local_layers(tiny_config, (1, 3)))
    assert [layer.is_local for layer in model.layers] == [False, True, False, True]


def test_a_window_wider_than_the_clip_changes_nothing(
    tiny_config: ModelConfig, make_clip: Callable[..., LatentClip]
) -> None:
    batch = pack([make_clip("a", video=(FRAMES, 4, 2))], patch=PATCH)
    with torch.no_grad():
        full = drawn(tiny_config)(batch).video
        wide = drawn(with_local_layers(tiny_config, (0, 1, 2, 3), FRAMES - 1))(batch).video
        narrow = drawn(with_local_layers(tiny_config, (0, 1, 2, 3), FRAMES - 2))(batch).video
    assert torch.equal(full, wide)
    assert (full - narrow).abs().max() > 1e-4


clip_shapes = st.tuples(
    st.none() | st.tuples(st.integers(1, 6), st.sampled_from([2, 4]), st.sampled_from([2, 4])),
    st.none() | st.integers(1, 9),
    st.integers(1, 6),
).filter(lambda shape: shape[0] is not None or shape[1] is not None)


@settings(max_examples=40)
@given(shapes=st.lists(clip_shapes, min_size=2, max_size=4), window=st.integers(0, 3))
def test_a_clip_in_a_pack_equals_the_clip_alone(shapes: list[tuple], window: int) -> None:
    """Its output, and the gradient of its squared output with respect to its own text."""
    config = ModelConfig(
        num_layers=2, hidden_size=32, head_dim=16, num_query_groups=1, video_in_channels=12, audio_in_channels=5,
        text_in_channels=7, mm_layers=(0,), gelu7_layers=(0,), local_attention_layers=(0, 1),
        local_attention_frames=window,
    )  # fmt: skip
    model = drawn(config).requires_grad_(False)
    clips = [
        LatentClip(
            key=str(i),
            video=None if video is None else torch.randn(3, *video),
            audio=None if audio is None else torch.randn(audio, 5),
            text=torch.randn(text, 7),
        )
        for i, (video, audio, text) in enumerate(shapes)
    ]

    def outputs_and_text_gradient(members: list[LatentClip], clip: int) -> list[torch.Tensor]:
        batch = pack(members, patch=PATCH)
        batch = replace(batch, text=batch.text.clone().requires_grad_())
        prediction = model(batch)
        parts = [prediction.video[batch.video_clip == clip], prediction.audio[batch.audio_clip == clip]]
        square = sum((part.square().sum() for part in parts), torch.zeros(()))
        (gradient,) = torch.autograd.grad(square, batch.text)
        start = sum(len(member.text) for member in members[:clip])
        return [part.flatten() for part in parts] + [gradient[start : start + len(members[clip].text)].flatten()]

    for clip in range(len(clips)):
        for packed, alone in zip(
            outputs_and_text_gradient(clips, clip), outputs_and_text_gradient([clips[clip]], 0), strict=True
        ):
            torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-4)


def test_flops_of_local_layers(tiny_config: ModelConfig, make_clip: Callable[..., LatentClip]) -> None:
    batch = pack([make_clip("a", video=(FRAMES, 4, 2), audio=5, text=3), make_clip("b", video=None)], patch=PATCH)
    full, local = (drawn(config).forward_flops(batch) for config in (tiny_config, with_local_layers(tiny_config, (1,))))
    hidden_pairs = FRAMES**2 - (3 * FRAMES - 2)  # frames that do not see each other, of 2 patches each
    assert full - local == 4 * tiny_config.hidden_size * hidden_pairs * 2**2


@pytest.mark.parametrize("kind", ["full", "selective"])
def test_gradients_under_activation_checkpointing(
    kind: str, tiny_config: ModelConfig, make_clip: Callable[..., LatentClip]
) -> None:
    batch = pack([make_clip("a", video=(FRAMES, 4, 2)), make_clip("b", video=(2, 2, 2))], patch=PATCH)
    gradients = []
    for checkpointing in ("none", kind):
        model = drawn(with_local_layers(tiny_config, (1, 2)))
        for layer in model.layers:
            layer.activation_checkpointing = checkpointing
        prediction = model(batch)
        (prediction.video.square().sum() + prediction.audio.square().sum()).backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-5)


def test_config_faults(tiny_config: ModelConfig) -> None:
    assert tiny_config.local_attention_layers == ()
    assert tiny_config.local_attention_frames == 11
    with pytest.raises(ValueError, match=r"local_attention_frames -1 must be 0.*local_attention_layers names.*\[4\]"):
        with_local_layers(tiny_config, (4,), -1)
    with pytest.raises(ValueError, match="a patch of 2 of them must be of 1"):
        replace(tiny_config, patch=(2, 1, 2), local_attention_layers=(0,))


def test_a_config_written_before_local_attention_reads_as_without(tiny_config: ModelConfig) -> None:
    fields = dataclasses.asdict(tiny_config)
    del fields["local_attention_layers"], fields["local_attention_frames"]
    assert ModelConfig.from_json(fields) == tiny_config
    local = with_local_layers(tiny_config, (0, 2), 3)
    assert ModelConfig.from_json(local.to_json()) == local
