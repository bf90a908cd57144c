"""The key styles of adapter files: writing three, reading those and what else is about, and telling strangers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from hh_train.model.lora.matrices import MatrixChange
from hh_train.model.lora.targets import MATRICES, linear_name

KeyStyle = Literal["peft", "comfyui", "kohya"]
"""`peft`: base_model.model.MODULE.lora_A.weight; `comfyui`: diffusion_model.MODULE.lora_A.weight and alpha; `kohya`:
lora_unet_MODULE_WITH_UNDERSCORES.lora_down.weight and alpha."""
KEY_STYLES: tuple[KeyStyle, ...] = ("peft", "comfyui", "kohya")
MAX_LISTED = 4

_MATRIX = "|".join(re.escape(matrix) for matrix in MATRICES)
_DOTTED = re.compile(
    r"(?P<prefix>(?:base_model\.model\.|model\.|diffusion_model\.|transformer\.|dit\.)*)"
    rf"block\.layers\.(?P<layer>\d+)\.(?P<matrix>{_MATRIX})\.(?P<tensor>.+)"
)
_UNDERSCORED = re.compile(
    r"(?P<prefix>(?:lora_unet|lora_transformer|lycoris)_)block_layers_(?P<layer>\d+)_"
    rf"(?P<matrix>{'|'.join(matrix.replace('.', '_') for matrix in MATRICES)})\.(?P<tensor>.+)"
)
_TENSORS = {
    "down": re.compile(r"lora_A(\.(?!weight$)\w+)?\.weight|lora_down\.weight|lora\.down\.weight"),
    "up": re.compile(r"lora_B(\.(?!weight$)\w+)?\.weight|lora_up\.weight|lora\.up\.weight"),
    "alpha": re.compile(r"alpha"),
    "magnitude": re.compile(r"lora_magnitude_vector(\.\w+)*"),
    "lengths": re.compile(r"dora_scale"),
}
_WEIGHT = re.compile(r"(?!.*lora).*\.(weight|bias|bands)")
_OWN = re.compile(
    r"block[._]layers[._]\d+[._]|adapter[._](video|audio|text)_embedder|final_(linear|norm)_(video|audio)"
)
_STRANGERS = (
    (r"hada_w[12]|lokr_w|oft_blocks|oft_diag|\.glora|\.(a1|a2|b1|b2)\.weight|\.on_input", "another kind of adapter "
     "(LoHa, LoKr, OFT, IA3 or GLoRA of LyCORIS), no LoRA"),
    (r"double_blocks|single_blocks|single_transformer_blocks", "Flux or HunyuanVideo"),
    (r"joint_blocks", "Stable Diffusion 3 or MMAudio"),
    (r"(input|output|down|up)_blocks?[._]|mid_block|middle_block", "the UNet of Stable Diffusion (1.5, 2 or XL)"),
    (r"audio_to_video_attn|video_to_audio_attn|audio_attn\d", "LTX-2"),
    (r"(video|audio)_model[._]blocks", "Ovi"),
    (r"(^|\.|lora_unet_)blocks[._]\d+[._](self|cross)_attn[._](q|k|v|output)_proj", "Cosmos"),
    (r"(^|\.|lora_unet_)blocks[._]\d+[._](self_attn|cross_attn|attn\d|ffn)", "Wan"),
    (r"transformer_blocks[._]\d+[._]attn\d", "LTX-Video, CogVideoX or another transformer of diffusers"),
    (r"transformer_blocks[._]\d+", "a diffusion transformer with transformer_blocks, like Qwen-Image"),
    (r"layers[._]\d+[._](self_attn[._][qkvo]_proj|mlp[._](gate|up|down)_proj)", "a language model"),
    (r"layers[._]\d+[._](attention|feed_forward|adaLN)", "Lumina or Z-Image"),
    (r"lora_te\d*_|text_encoder|text_model|SelfAttention|DenseReluDense", "a text encoder, as in LoRAs of Stable "
     "Diffusion"),
)  # fmt: skip


@dataclass(frozen=True)
class Parsed:
    """What a file's keys are, sorted by matrix (layer and name in it) and by role."""

    style: str
    matrices: Mapping[tuple[int, str], Mapping[str, Tensor]]


def styled(changes: Mapping[str, MatrixChange], style: KeyStyle, *, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a file. `peft` keeps alpha in its own configuration.

    A `dora_scale` means what the style's own tools make of it: ComfyUI divides by the lengths of the base's rows, those
    of kohya's scripts (LyCORIS) by those of the changed ones.
    """
    tensors: dict[str, Tensor] = {}
    for linear, change in changes.items():
        if style == "peft":
            module, names = f"base_model.model.{linear}", ("lora_A.weight", "lora_B.weight")
        elif style == "comfyui":
            module, names = f"diffusion_model.{linear}", ("lora_A.weight", "lora_B.weight")
        else:
            module, names = f"lora_unet_{linear.replace('.', '_')}", ("lora_down.weight", "lora_up.weight")
        tensors[f"{module}.{names[0]}"] = change.down.to(dtype).contiguous()
        tensors[f"{module}.{names[1]}"] = change.up.to(dtype).contiguous()
        if style != "peft":
            tensors[f"{module}.alpha"] = torch.tensor(change.alpha, dtype=torch.float32)
        if style == "peft" and change.magnitude is not None:
            tensors[f"{module}.lora_magnitude_vector"] = change.magnitude.clone()
        lengths = change.gained if style == "comfyui" else change.magnitude
        if style != "peft" and lengths is not None:
            tensors[f"{module}.dora_scale"] = lengths[:, None].clone()
    return tensors


def parse(tensors: Mapping[str, Tensor], *, source: str, claim: str | None = None) -> Parsed:
    """Sorts the tensors of an adapter file of any style.

    Args:
        source: of which errors speak.
        claim: what the file's metadata calls its model, for errors.

    Raises ValueError that says whose keys these are when they are not this architecture's, or which are odd.
    """
    matrices: dict[tuple[int, str], dict[str, Tensor]] = {}
    styles: list[str] = []
    odd: list[str] = []
    for key, tensor in tensors.items():
        match = _DOTTED.fullmatch(key) or _UNDERSCORED.fullmatch(key)
        role = _role(match["tensor"]) if match else None
        if match is None or role is None:
            odd.append(key)
            continue
        matrix = next(name for name in MATRICES if name.replace(".", "_") == match["matrix"].replace(".", "_"))
        found = matrices.setdefault((int(match["layer"]), matrix), {})
        if role in found:
            raise ValueError(f"{source} has {role} of {linear_name(int(match['layer']), matrix)} twice: {key}")
        found[role] = tensor
        styles.append(_style(match["prefix"]))
    if odd or not matrices:
        raise ValueError(_strange(odd, source, claim, any_known=bool(matrices)))
    faults = [
        f"{linear_name(*place)} has no {role} factor"
        for place, found in matrices.items()
        for role in ("down", "up")
        if role not in found
    ]
    if faults:
        raise ValueError(f"{source} is incomplete:\n  " + "\n  ".join(faults))
    style = max(sorted(set(styles)), key=styles.count)
    for found in matrices.values():
        if "lengths" in found:
            found["gained" if style == "comfyui" else "magnitude"] = found.pop("lengths")
    return Parsed(style=style, matrices=matrices)


def _role(tensor: str) -> str | None:
    return next((role for role, pattern in _TENSORS.items() if pattern.fullmatch(tensor)), None)


def _style(prefix: str) -> str:
    named = {
        "base_model.model.": "peft", "lora_": "kohya", "lycoris_": "kohya", "diffusion_model.": "comfyui",
        "model.diff": "comfyui", "transformer.": "diffusers",
    }  # fmt: skip
    return next((style for start, style in named.items() if prefix.startswith(start)), "bare")


def _strange(keys: Sequence[str], source: str, claim: str | None, *, any_known: bool) -> str:
    listed = ", ".join(keys[:MAX_LISTED]) + (f" and {len(keys) - MAX_LISTED} more" if len(keys) > MAX_LISTED else "")
    if not keys:
        return f"{source} holds no tensors"
    if any_known or any(_OWN.search(key) for key in keys):
        if not any_known and all(_WEIGHT.fullmatch(key) for key in keys):
            return f"{source}: these are keys of a whole checkpoint, no adapter: {listed}"
        return f"{source}: adapters change matrix products of the layers; it has tensors that no adapter has: {listed}"
    owner = next((own for pattern, own in _STRANGERS if any(re.search(pattern, key) for key in keys)), None)
    said = f" (the file says of itself: {claim})" if claim else ""
    return (
        f"{source}: these are keys of {owner or 'an unknown model'}{said}: {listed}; wanted a LoRA of this architecture"
    )
