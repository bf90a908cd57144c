"""The whole forward pass against one written out in fp64 for a single clip, token by token as the paper's model reads.

The reference knows the released layout alone: names and shapes of tensors, and the published formulas. It shares no
code with the model, and is not built for speed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from hh_train.data.packing import pack, unpack
from hh_train.model.config import ModelConfig
from hh_train.model.transformer import SandwichTransformer
from hh_train.types import LatentClip

GOLDEN = Path(__file__).parent.parent / "golden" / "sandwich_tiny.safetensors"
VIDEO, AUDIO, TEXT = 0, 1, 2


def reference_velocity(  # noqa: PLR0915 - one piece, to be read from top to bottom
    weights: Mapping[str, Tensor], config: ModelConfig, video: Tensor, audio: Tensor, text: Tensor
) -> tuple[Tensor, Tensor]:
    """Velocities of video [C T H W] and audio [L Ca], in fp64."""
    w = {name: tensor.double() for name, tensor in weights.items()}
    patch_time, patch_height, patch_width = config.patch
    grid = (video.shape[1] // patch_time, video.shape[2] // patch_height, video.shape[3] // patch_width)
    places = list(product(*map(range, grid)))
    within = list(product(range(patch_time), range(patch_height), range(patch_width)))

    def pixel(place: tuple[int, ...], offset: tuple[int, ...]) -> tuple[int, int, int]:
        t, h, v = (p * step + o for p, step, o in zip(place, config.patch, offset, strict=True))
        return t, h, v

    def norm(x: Tensor, name: str, expert: int) -> Tensor:
        gain = w[name].reshape(-1, x.shape[-1])
        gain = gain[expert if len(gain) == 3 else 0]
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6) * (1 + gain)

    def linear(x: Tensor, name: str, expert: int, out: int) -> Tensor:
        experts = w[name].reshape(-1, out, x.shape[-1])
        return experts[expert if len(experts) == 3 else 0] @ x

    def stretch(reference: int, size: int) -> float:
        return 1.0 if reference == size == 1 else (reference - 1) / (size - 1)

    # Tokens: video patches are read channel by channel, then audio, then text.
    stream: list[Tensor] = []
    kinds: list[int] = []
    frames: list[int] = []
    angles: list[Tensor] = []
    bands = [10000.0 ** (-i / (config.head_dim // 8)) for i in range(config.head_dim // 8)]

    def add(kind: int, name: str, values: Tensor, time: float, height: float, width: float) -> None:
        embedder = f"adapter.{name}_embedder."
        stream.append(w[embedder + "weight"] @ values.double() + w[embedder + "bias"])
        kinds.append(kind)
        angles.append(torch.tensor([a * b for a in (time, height, width) for b in bands], dtype=torch.float64))

    for t, h, v in places:
        values = [video[(c, *pixel((t, h, v), offset))] for c in range(video.shape[0]) for offset in within]
        add(VIDEO, "video", torch.stack(values), t, h - (grid[1] - 1) / 2, v - (grid[2] - 1) / 2)
        frames.append(t)
    is_v2 = config.coordinates == "v2"
    for i, values in enumerate(audio):
        add(AUDIO, "audio", values, i * stretch((len(audio) - 1) // 4 + 1 if is_v2 else grid[0], len(audio)), 0, 0)
    for i, values in enumerate(text):
        add(TEXT, "text", values, (i - len(text) * is_v2) * stretch(1 if is_v2 else 2, len(text)), 0, 0)

    heads, groups, dim = config.hidden_size // config.head_dim, config.num_query_groups, config.head_dim

    def rotated(x: Tensor, angle: Tensor) -> Tensor:
        """One token's heads [H D]: dimensions j and j + R turn together, the last D - 2R stay."""
        turned = x.clone()
        size = len(angle)
        for j in range(size):
            a, b = x[:, j], x[:, j + size]
            turned[:, j] = a * math.cos(angle[j]) - b * math.sin(angle[j])
            turned[:, j + size] = b * math.cos(angle[j]) + a * math.sin(angle[j])
        return turned

    def sees(query: int, key: int, layer: int) -> bool:
        both_video = kinds[query] == kinds[key] == VIDEO
        is_local = layer in config.local_attention_layers
        return not (both_video and is_local) or abs(frames[query] - frames[key]) <= config.local_attention_frames

    for layer in range(config.num_layers):
        own = f"block.layers.{layer}."
        queries, keys, values, gates = [], [], [], []
        for x, kind, angle in zip(stream, kinds, angles, strict=True):
            rows = (heads + 2 * groups) * dim + heads
            qkvg = linear(
                norm(x, own + "attention.pre_norm.weight", kind), own + "attention.linear_qkv.weight", kind, rows
            )
            q, k, v, g = qkvg.split([heads * dim, groups * dim, groups * dim, heads])
            queries.append(rotated(norm(q.reshape(heads, dim), own + "attention.q_norm.weight", kind), angle))
            keys.append(rotated(norm(k.reshape(groups, dim), own + "attention.k_norm.weight", kind), angle))
            values.append(v.reshape(groups, dim))
            gates.append(1 / (1 + torch.exp(-g)))
        attended = []
        for i, query in enumerate(queries):
            seen = [j for j in range(len(stream)) if sees(i, j, layer)]
            per_head = []
            for head in range(heads):
                group = head // (heads // groups)
                scores = torch.stack([query[head] @ keys[j][group] for j in seen]) / math.sqrt(dim)
                shares = torch.exp(scores - scores.max())
                shares = shares / shares.sum()
                mixed = sum(share * values[j][group] for share, j in zip(shares, seen, strict=True))
                per_head.append(gates[i][head] * mixed)
            attended.append(torch.cat(per_head))
        for i, kind in enumerate(kinds):
            hidden = config.hidden_size
            x = stream[i] + linear(attended[i], own + "attention.linear_proj.weight", kind, hidden)
            normed = norm(x, own + "mlp.pre_norm.weight", kind)
            if layer in config.gelu7_layers:
                up = linear(normed, own + "mlp.up_gate_proj.weight", kind, 4 * hidden)
                z = torch.minimum(up, torch.tensor(7.0))
                activated = z / (1 + torch.exp(-1.702 * z))
            else:
                inner = int(hidden * 4 * 2 / 3) // 4 * 4
                up = linear(normed, own + "mlp.up_gate_proj.weight", kind, 2 * inner)
                z, flat = torch.minimum(up[0::2], torch.tensor(7.0)), up[1::2].clamp(-7, 7)
                activated = z / (1 + torch.exp(-1.702 * z)) * (flat + 1)
            stream[i] = x + linear(activated, own + "mlp.down_proj.weight", kind, hidden)

    # Output patches are written pixel by pixel, all channels of one pixel together.
    video_velocity = torch.zeros(video.shape, dtype=torch.float64)
    for place, x in zip(places, stream, strict=False):
        row = w["final_linear_video.weight"] @ norm(x, "final_norm_video.weight", 0)
        for n, offset in enumerate(within):
            video_velocity[(slice(None), *pixel(place, offset))] = row[n * len(video) : (n + 1) * len(video)]
    sound = stream[len(places) : len(places) + len(audio)]
    rows = [w["final_linear_audio.weight"] @ norm(x, "final_norm_audio.weight", 0) for x in sound]
    return video_velocity, torch.stack(rows)


def golden_config(style: str) -> ModelConfig:
    with safe_open(GOLDEN, framework="pt") as file:
        return ModelConfig.from_json({**json.loads(file.metadata()["config"]), "coordinates": style})


def small_config(**changes: object) -> ModelConfig:
    fields = {
        "num_layers": 3, "hidden_size": 48, "head_dim": 8, "num_query_groups": 3, "video_in_channels": 12,
        "audio_in_channels": 5, "text_in_channels": 7, "mm_layers": (0, 2), "gelu7_layers": (0,),
    }  # fmt: skip
    return ModelConfig(**{**fields, **changes})


CASES = {
    "golden v1": (golden_config("v1"), (4, 3, 4, 6), 9, 5),
    "golden v2": (golden_config("v2"), (4, 3, 4, 6), 9, 5),
    "wide patch, six heads on three": (small_config(patch=(1, 1, 2)), (6, 2, 3, 4), 5, 3),
    "patch in time, one key head, v1": (
        small_config(patch=(2, 2, 1), coordinates="v1", num_query_groups=1, head_dim=16), (3, 4, 4, 2), 13, 4,
    ),
    "sound that is no multiple of four, one frame": (small_config(gelu7_layers=(1, 2)), (3, 1, 4, 6), 6, 1),
    "local": (
        small_config(local_attention_layers=(0, 1), local_attention_frames=1, mm_layers=(0,)), (3, 5, 2, 4), 17, 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_forward_pass_is_that_of_the_reference(case: str) -> None:
    """Weights are large enough to make the activations' clamps bite and attention uneven."""
    config, (channels, *size), num_audio, num_text = CASES[case]
    generator = torch.Generator().manual_seed(0)
    model = SandwichTransformer(config=config, compute_dtype="float32")
    for name, parameter in model.named_parameters():
        std = 0.3 if parameter.dim() == 1 else 2 * parameter.shape[-1] ** -0.5
        std = std * 3 if name.endswith("up_gate_proj.weight") else std
        parameter.data = std * torch.randn(parameter.shape, generator=generator)
    clip = LatentClip(
        key="a",
        video=torch.randn(channels, *size, generator=generator),
        audio=torch.randn(num_audio, config.audio_in_channels, generator=generator),
        text=torch.randn(num_text, config.text_in_channels, generator=generator),
    )
    with torch.no_grad():
        expected = reference_velocity(model.state_dict(), config, clip.video, clip.audio, clip.text)
        batch = pack([clip], patch=config.patch)
        prediction = model(batch)
    ours = unpack(batch.with_latents(prediction.video, prediction.audio), patch=config.patch)[0]
    for name, found, wanted in zip(("video", "audio"), ours, expected, strict=True):
        error = (found.double() - wanted).norm() / wanted.norm()
        print(f"{case}: {name} {error:.1e}")
        assert wanted.std() > 0.1 and error <= 1e-5
