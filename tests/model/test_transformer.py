"""The forward pass: parity with the original, and clips that do not see each other."""

from __future__ import annotations

import json
import subprocess
import sys
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


clip_shapes = st.tuples(
    st.one_of(st.none(), st.tuples(st.integers(1, 3), st.sampled_from([2, 4]), st.sampled_from([2, 4]))),
    st.one_of(st.none(), st.integers(1, 9)),
    st.integers(1, 6),
).filter(lambda shape: shape[0] is not None or shape[1] is not None)


@given(shapes=st.lists(clip_shapes, min_size=2, max_size=5))
def test_a_clip_in_a_pack_equals_the_clip_alone(shapes: list[tuple]) -> None:
    torch.manual_seed(0)
    config = ModelConfig(
        num_layers=4, hidden_size=32, head_dim=16, num_query_groups=1, video_in_channels=12, audio_in_channels=5,
        text_in_channels=7, mm_layers=(0, 3), gelu7_layers=(0,),
    )  # fmt: skip
    model = SandwichTransformer(config=config, compute_dtype="float32")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    clips = [
        LatentClip(
            key=str(i),
            video=None if video is None else torch.randn(3, *video),
            audio=None if audio is None else torch.randn(audio, 5),
            text=torch.randn(text, 7),
        )
        for i, (video, audio, text) in enumerate(shapes)
    ]

    def run(members: list[LatentClip]) -> list[tuple]:
        batch = pack(members, patch=PATCH)
        prediction = model(batch)
        return unpack(batch.with_latents(prediction.video, prediction.audio), patch=PATCH)

    with torch.no_grad():
        together = run(clips)
        for clip, packed in zip(clips, together, strict=True):
            for ours, alone in zip(packed, run([clip])[0], strict=True):
                assert (ours is None) == (alone is None)
                if ours is not None:
                    torch.testing.assert_close(ours, alone, atol=1e-5, rtol=1e-5)


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


def test_a_fresh_model_predicts_zero(tiny_config: ModelConfig, make_clip: Callable[..., LatentClip]) -> None:
    prediction = SandwichTransformer(config=tiny_config)(pack([make_clip("a")], patch=PATCH))
    assert prediction.video.abs().max() == 0 and prediction.audio.abs().max() == 0


def test_released_size() -> None:
    """The 15B model of arXiv:2603.21986, counted on the meta device."""
    config = ModelConfig(
        num_layers=40, hidden_size=5120, head_dim=128, num_query_groups=8, video_in_channels=192, audio_in_channels=64,
        text_in_channels=3584, mm_layers=(0, 1, 2, 3, 36, 37, 38, 39), gelu7_layers=(0, 1, 2, 3),
    )  # fmt: skip
    with torch.device("meta"):
        model = SandwichTransformer(config=config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 15_299_419_136
    assert len(model.state_dict()) == 331
    assert model.state_dict()["block.layers.0.attention.linear_qkv.weight"].shape == (21624, 5120)
    assert model.state_dict()["block.layers.5.mlp.up_gate_proj.weight"].shape == (27304, 5120)


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


COMPILED = """
import torch
from hh_train.data.packing import pack
from hh_train.model.config import ModelConfig
from hh_train.model.transformer import SandwichTransformer
from hh_train.types import LatentClip

torch.manual_seed(0)
config = ModelConfig(
    num_layers=4, hidden_size=32, head_dim=16, num_query_groups=1, video_in_channels=12, audio_in_channels=5,
    text_in_channels=7, mm_layers=(0, 3), gelu7_layers=(0,),
)
model = SandwichTransformer(config=config, compute_dtype="float32")
for parameter in model.parameters():
    torch.nn.init.normal_(parameter, std=0.2)
clips = [
    LatentClip(key=str(n), video=torch.randn(3, n, 4, 2), audio=torch.randn(4 * n - 3, 5), text=torch.randn(n + 1, 7))
    for n in (1, 2, 3)
]
batches = [pack(clips[:2], patch=(1, 2, 2)), pack(clips, patch=(1, 2, 2)), pack(clips[2:], patch=(1, 2, 2))]
eager = [model(batch).video for batch in batches]
model.compile_layers(backend="aot_eager")
for batch, reference in zip(batches, eager):
    torch.testing.assert_close(model(batch).video, reference, atol=1e-5, rtol=1e-5)
breaks = sum(torch._dynamo.utils.counters["graph_break"].values())
print("graphs", torch._dynamo.utils.counters["stats"]["unique_graphs"], "breaks", breaks)
"""


def test_compiled_layers_compute_the_same_in_whole_graphs() -> None:
    """In a process of its own, since the compiler cannot look through this suite's run-time shape checks."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert int(words[1]) >= 5 and int(words[3]) == 0  # three kinds of layer, two graphs each; one is shared
