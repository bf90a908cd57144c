"""The forward pass: parity with the original, and clips that do not see each other."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from hh_train.data.packing import pack, unpack
from hh_train.model.attention import PerClipAttention
from hh_train.model.checkpoint import is_matrix_product_weight
from hh_train.model.config import ModelConfig
from hh_train.model.transformer import SandwichTransformer
from hh_train.types import LatentClip

GOLDEN = Path(__file__).parent.parent / "golden" / "sandwich_tiny.safetensors"
PATCH = (1, 2, 2)


def golden_model(style: str, compute_dtype: str) -> SandwichTransformer:
    """The original's test weights: value i of the j-th tensor by name is s sin(0.37 i + j)."""
    with safe_open(GOLDEN, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
    model = SandwichTransformer(
        config=ModelConfig.from_json({**config, "coordinates": style}),
        compute_dtype=compute_dtype,
        attention=PerClipAttention(longest_written_out=0),  # the original's kernel
    )
    for rank, (name, parameter) in enumerate(sorted(model.named_parameters())):
        fan_in = parameter.shape[-1] if parameter.dim() > 1 else 8
        scale = 0.2 if "norm" in name else fan_in**-0.5
        index = torch.arange(parameter.numel(), dtype=torch.float64)
        value = (scale * torch.sin(0.37 * index + rank)).reshape(parameter.shape)
        stored = value.bfloat16() if is_matrix_product_weight(name) else value
        parameter.data = stored.float()
    return model


def golden_velocities(style: str, compute_dtype: str) -> dict[str, torch.Tensor]:
    tensors = load_file(GOLDEN)
    clip = LatentClip(
        key="golden", video=tensors["video_latent"], audio=tensors["audio_latent"], text=tensors["text_features"]
    )
    batch = pack([clip], patch=PATCH)
    with torch.no_grad():
        prediction = golden_model(style, compute_dtype)(batch)
    video, audio = unpack(batch.with_latents(prediction.video, prediction.audio), patch=PATCH)[0]
    return {"video": video, "audio": audio}


@pytest.mark.parametrize("style", ["v1", "v2"])
@pytest.mark.parametrize("compute_dtype", ["bfloat16", "float32"])
def test_matches_the_original(style: str, compute_dtype: str) -> None:
    ours = golden_velocities(style, compute_dtype)
    theirs = load_file(GOLDEN)
    for name in ("video", "audio"):
        reference = theirs[f"{style}.{name}_velocity"]
        assert (ours[name] - reference).norm() / reference.norm() < 1e-2


def test_each_coordinate_style_is_nearest_to_its_own_reference() -> None:
    """The styles differ by less than the tolerance above, so that alone could not tell them apart."""
    references = load_file(GOLDEN)
    for style, other in (("v1", "v2"), ("v2", "v1")):
        ours = golden_velocities(style, "bfloat16")["audio"]
        own_error = (ours - references[f"{style}.audio_velocity"]).norm()
        assert own_error < 0.5 * (ours - references[f"{other}.audio_velocity"]).norm()


def test_output_patches_are_channel_minor(tiny_model: SandwichTransformer) -> None:
    """The output layer's row (pH pW c) drives channel c at (pH, pW), while the input layer reads column (c pH pW)."""
    rows = torch.arange(12.0)
    ours = tiny_model._to_input_order(rows[None])[0].reshape(3, 2, 2)
    for channel in range(3):
        for row in range(2):
            for column in range(2):
                assert ours[channel, row, column] == (row * 2 + column) * 3 + channel


@pytest.mark.parametrize("patch", [(1, 2, 2), (2, 1, 3)])
def test_patches_are_read_channel_major_and_written_channel_minor(patch: tuple[int, int, int]) -> None:
    """With layers that add nothing, an embedder that copies column k to channel k of the stream and an output layer
    whose row (pT pH pW c) copies what column (c+1 pT pH pW) brought, every value moves to its own pixel one channel
    down, divided by its patch's root mean square. Any other order on either side scatters values over the patch.
    """
    num_channels, volume = 3, patch[0] * patch[1] * patch[2]
    size = num_channels * volume
    config = ModelConfig(
        num_layers=1, hidden_size=64, head_dim=16, num_query_groups=1, video_in_channels=size, audio_in_channels=5,
        text_in_channels=7, mm_layers=(), gelu7_layers=(), patch=patch,
    )  # fmt: skip
    model = SandwichTransformer(config=config, compute_dtype="float32")
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        model.adapter.video_embedder.weight[:size] = torch.eye(size)
        for channel in range(num_channels):
            for place in range(volume):
                column = (channel + 1) % num_channels * volume + place
                model.final_linear_video.weight[place * num_channels + channel, column] = 1
        latent = torch.randn(num_channels, 2, 4, 6, generator=torch.Generator().manual_seed(0))
        batch = pack([LatentClip(key="a", video=latent, audio=None, text=torch.zeros(1, 7))], patch=patch)
        prediction = model(batch)
        velocity = unpack(batch.with_latents(prediction.video, prediction.audio), patch=patch)[0][0]
    pooled = torch.nn.functional.avg_pool3d(latent.square().mean(0)[None, None], patch) * size / 64
    root_mean_square = pooled.sqrt()[0, 0]
    for axis, step in enumerate(patch):
        root_mean_square = root_mean_square.repeat_interleave(step, axis)
    torch.testing.assert_close(velocity, latent.roll(-1, 0) / root_mean_square, atol=1e-4, rtol=1e-4)


clip_shapes = st.tuples(
    st.one_of(st.none(), st.tuples(st.integers(1, 3), st.sampled_from([2, 4]), st.sampled_from([2, 4]))),
    st.one_of(st.none(), st.integers(1, 9)),
    st.integers(1, 6),
).filter(lambda shape: shape[0] is not None or shape[1] is not None)


@given(shapes=st.lists(clip_shapes, min_size=2, max_size=5))
def test_a_clip_in_a_pack_equals_the_clip_alone(shapes: list[tuple]) -> None:
    """Its output, and the gradient of its squared output with respect to its own latents and text."""
    torch.manual_seed(0)
    config = ModelConfig(
        num_layers=4, hidden_size=32, head_dim=16, num_query_groups=1, video_in_channels=12, audio_in_channels=5,
        text_in_channels=7, mm_layers=(0, 3), gelu7_layers=(0,),
    )  # fmt: skip
    model = SandwichTransformer(config=config, compute_dtype="float32")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
        parameter.requires_grad_(False)
    clips = [
        LatentClip(
            key=str(i),
            video=None if video is None else torch.randn(3, *video),
            audio=None if audio is None else torch.randn(audio, 5),
            text=torch.randn(text, 7),
        )
        for i, (video, audio, text) in enumerate(shapes)
    ]

    def run(members: list[LatentClip]) -> list[tuple[torch.Tensor | None, ...]]:
        """Of each clip: velocities of video and audio, gradients with respect to video, audio and text."""
        batch = pack(members, patch=PATCH)
        inputs = {name: getattr(batch, name).clone().requires_grad_() for name in ("video", "audio", "text")}
        prediction = model(dataclasses.replace(batch, **inputs))
        (0.5 * prediction.video.square().sum() + 0.5 * prediction.audio.square().sum()).backward()
        velocities = unpack(batch.with_latents(prediction.video.detach(), prediction.audio.detach()), patch=PATCH)
        video, audio, text = (x.grad if len(x) else x.detach() for x in inputs.values())
        gradients = unpack(batch.with_latents(video, audio), patch=PATCH)
        text_gradients = text.split([layout.text for layout in batch.layouts])
        return [(*v, *g, t) for v, g, t in zip(velocities, gradients, text_gradients, strict=True)]

    for clip, packed in zip(clips, run(clips), strict=True):
        for ours, alone in zip(packed, run([clip])[0], strict=True):
            assert (ours is None) == (alone is None)
            if ours is not None:
                largest = float(alone.abs().max())
                assert largest > 0
                torch.testing.assert_close(ours, alone, atol=1e-5 * max(1.0, largest), rtol=0)


def test_gradients_do_not_cross_clips(tiny_model: SandwichTransformer, make_clip: Callable[..., LatentClip]) -> None:
    batch = pack([make_clip("a"), make_clip("b", seed=1)], patch=PATCH)
    video = batch.video.clone().requires_grad_()
    prediction = tiny_model(batch.with_latents(video, batch.audio))
    prediction.video[batch.video_clip == 0].square().sum().backward()
    assert video.grad[batch.video_clip == 0].abs().max() > 0
    assert video.grad[batch.video_clip == 1].abs().max() == 0


def test_every_modality_reaches_the_others(
    tiny_model: SandwichTransformer, make_clip: Callable[..., LatentClip]
) -> None:
    clip = make_clip("a")
    base = tiny_model(pack([clip], patch=PATCH))
    changed = {
        "text": LatentClip(key="a", video=clip.video, audio=clip.audio, text=clip.text + 1),
        "audio": LatentClip(key="a", video=clip.video, audio=clip.audio + 1, text=clip.text),
    }
    for other in changed.values():
        assert (tiny_model(pack([other], patch=PATCH)).video - base.video).abs().max() > 1e-3


def test_a_pack_without_a_modality_has_a_prediction_of_its_own_shape(
    tiny_model: SandwichTransformer, make_clip: Callable[..., LatentClip]
) -> None:
    for missing in ("video", "audio"):
        batch = pack([make_clip("a", **{missing: None}), make_clip("b", **{missing: None})], patch=PATCH)
        prediction = tiny_model(batch)
        assert prediction.video.shape == batch.video.shape
        assert prediction.audio.shape == batch.audio.shape
        (prediction.video.square().sum() + prediction.audio.square().sum()).backward()
        assert all(parameter.grad is not None for parameter in tiny_model.parameters())  # as sharded training wants


def test_a_fresh_model_predicts_the_noised_tokens(
    tiny_config: ModelConfig, make_clip: Callable[..., LatentClip]
) -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(tiny_config, hidden_size=256)
    batch = pack([make_clip("a")], patch=PATCH)
    batch = batch.with_latents(torch.randn_like(batch.video), torch.randn_like(batch.audio))
    model = SandwichTransformer(config=config, compute_dtype="float32")
    prediction = model(batch)
    for found, wanted in ((prediction.video, batch.video), (prediction.audio, batch.audio)):
        assert torch.corrcoef(torch.stack([found.flatten(), wanted.flatten()]))[0, 1] > 0.6


def test_flops_count_active_products_and_attention(
    tiny_model: SandwichTransformer, make_clip: Callable[..., LatentClip]
) -> None:
    batch = pack([make_clip("a"), make_clip("b", audio=9)], patch=PATCH)
    hidden, kv, heads, gelu, swiglu = 32, 16, 2, 128, 84
    attention = hidden * (hidden + 2 * kv + heads) + hidden * hidden
    active = 4 * attention + 2 * hidden * gelu + 3 * 3 * hidden * swiglu
    pairs = sum(length**2 for length in batch.lengths)
    assert tiny_model.forward_flops(batch) == 2 * active * batch.num_tokens + 4 * 4 * hidden * pairs


def test_wrong_channels_are_named(tiny_model: SandwichTransformer) -> None:
    clip = LatentClip(key="a", video=torch.zeros(3, 1, 2, 2), audio=torch.zeros(1, 4), text=torch.zeros(1, 7))
    with pytest.raises(ValueError, match="audio tokens have 4 channels, the model reads 5"):
        tiny_model(pack([clip], patch=PATCH))
