"""Checkpoint folders in the released layout: safetensors files (with an index when there are several) and config.json.

Keys and shapes are the model's own, which are the released ones. Reading is strict, and goes file by file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError, safe_open
from torch import Tensor

from hh_train.model.config import ModelConfig
from hh_train.model.transformer import ComputeDtype, SandwichTransformer

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
ParameterDtype = Literal["as_stored", "float32"]


def is_matrix_product_weight(name: str) -> bool:
    """Whether a tensor may be stored in bf16. Norms, embedders, output layers and rotary bands must stay fp32."""
    return name.endswith(("linear_qkv.weight", "linear_proj.weight", "up_gate_proj.weight", "down_proj.weight"))


def save_model(
    state_dict: Mapping[str, Tensor],
    config: ModelConfig,
    folder: str | Path,
    *,
    bfloat16_products: bool = False,
    max_file_size: str = "5GB",
    records: Mapping[str, str] | None = None,
) -> Path:
    """Writes a checkpoint folder, whole or not at all, and returns it.

    `bfloat16_products` stores the weights of the layers' matrix products in bf16, as the released base model does;
    `records` are further text files by name.
    """
    folder = Path(folder)
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    tensors = {
        name: _stored(tensor.bfloat16() if bfloat16_products and is_matrix_product_weight(name) else tensor)
        for name, tensor in state_dict.items()
    }
    save_torch_state_dict(tensors, unfinished, max_shard_size=max_file_size)
    (unfinished / CONFIG_FILE).write_text(json.dumps(config.to_json(), indent=2) + "\n")
    for name, text in (records or {}).items():
        (unfinished / name).write_text(text)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    return folder


def _stored(tensor: Tensor) -> Tensor:
    """On the CPU, with a storage of its own size: a tensor gathered from uneven shards is a view of a longer one."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def read_config(folder: str | Path) -> ModelConfig:
    """Raises ValueError when the folder is no checkpoint."""
    file = Path(folder) / CONFIG_FILE
    if not file.is_file():
        raise ValueError(f"{folder} is no checkpoint folder: it has no {CONFIG_FILE}")
    try:
        return ModelConfig.from_json(json.loads(file.read_text()))
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


def load_model(
    folder: str | Path,
    *,
    compute_dtype: ComputeDtype = "bfloat16",
    parameter_dtype: ParameterDtype = "float32",
    device: str = "cpu",
    compile_layers: bool = False,
) -> SandwichTransformer:
    """Builds the model of a checkpoint folder, without drawing weights first.

    Raises ValueError that lists every missing, unexpected and misshapen tensor and every unreadable file.
    """
    config = read_config(folder)
    files = weight_files(folder)
    with torch.device("meta"):
        model = SandwichTransformer(config=config, compute_dtype=compute_dtype)
    _require_fit(model, files)
    for file in files:
        with safe_open(file, framework="pt", device=device) as tensors:
            state = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 - no mapping
        if parameter_dtype == "float32":
            state = {name: tensor.float() for name, tensor in state.items()}
        model.load_state_dict(state, strict=False, assign=True)
    if compile_layers:
        model.compile_layers()
    return model


def weight_files(folder: str | Path) -> list[Path]:
    """The safetensors files of a checkpoint folder. Raises ValueError when there are none or one of the index lacks."""
    folder = Path(folder)
    index = folder / INDEX_FILE
    if index.is_file():
        files = [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    else:
        files = [folder / WEIGHTS_FILE]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ValueError(f"{folder} lacks weight files: {', '.join(missing)}")
    return files


def _require_fit(model: SandwichTransformer, files: list[Path]) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found: dict[str, tuple[int, ...]] = {}
    faults = []
    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                found |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            faults.append(f"unreadable (truncated?): {file.name}: {error}")
    faults += [f"missing: {name} {shape}" for name, shape in wanted.items() if name not in found]
    faults += [f"unexpected: {name} {shape}" for name, shape in found.items() if name not in wanted]
    faults += [
        f"misshapen: {name} is {shape}, the config wants {wanted[name]}"
        for name, shape in found.items()
        if name in wanted and shape != wanted[name]
    ]
    if faults:
        raise ValueError(
            f"the weights in {files[0].parent} do not fit its {CONFIG_FILE}:\n  "
            + "\n  ".join(faults)
            + "\nUse the folder's own config, or a checkpoint of this architecture."
        )
