"""Checkpoint folders in the released layout: safetensors files (with an index when there are several) and config.json.

Keys and shapes are the model's own, which are the released ones. Reading is strict and goes tensor by tensor, straight
to where the weights will live: a device, or this process's shards.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from hh_train.model.attention import AttentionBackend, AttentionName
from hh_train.model.config import ModelConfig
from hh_train.model.recompute import ActivationCheckpointing
from hh_train.model.transformer import ComputeDtype, SandwichTransformer
from hh_train.model.weight_files import WeightFiles

CONFIG_FILE = "config.json"
MAX_NAMED = 3
ParameterDtype = Literal["as_stored", "float32"]

log = logging.getLogger(__name__)


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

    Weights of the layers' matrix products keep their dtype, or are stored in bf16 (`bfloat16_products`) as in the
    released base model; all others are stored in fp32. `records` are further text files by name.
    """
    folder = Path(folder)
    unfinished = folder.with_name(folder.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    tensors = {
        name: _stored(tensor.to(_dtype_to_store(name, tensor, bfloat16_products=bfloat16_products)))
        for name, tensor in state_dict.items()
    }
    save_torch_state_dict(tensors, unfinished, max_shard_size=max_file_size)
    (unfinished / CONFIG_FILE).write_text(json.dumps(config.to_json(), indent=2) + "\n")
    for name, text in (records or {}).items():
        (unfinished / name).write_text(text)
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    return folder


def _dtype_to_store(name: str, tensor: Tensor, *, bfloat16_products: bool) -> torch.dtype:
    if not is_matrix_product_weight(name):
        return torch.float32
    return torch.bfloat16 if bfloat16_products else tensor.dtype


def _stored(tensor: Tensor) -> Tensor:
    """On the CPU, with a storage of its own size: a tensor gathered from uneven shards is a view of a longer one."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def read_config(folder: str | Path) -> ModelConfig:
    """Raises ValueError when the folder has no model config, or another architecture's."""
    file = Path(folder) / CONFIG_FILE
    if not file.is_file():
        raise ValueError(
            f"{folder} is no checkpoint folder: it has no {CONFIG_FILE}. "
            "Weights as released come without one: give the config of the architecture (configs/model/)"
        )
    try:
        return ModelConfig.from_json(json.loads(file.read_text()))
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


def inferred_config(folder: str | Path) -> ModelConfig:
    """The architecture that shapes of weights say, for a folder without a config, as released ones are.

    What shapes do not say is taken as in the released base and distilled models: the patch, the coordinates, and that
    attention is nowhere local. Raises ValueError for weights of something else.
    """
    tensors = WeightFiles.scan(folder).tensors
    shapes = {name: stored.shape for name, stored in tensors.items()}
    try:
        hidden, video = shapes["adapter.video_embedder.weight"]
        num_layers = 1 + max(int(name.split(".")[2]) for name in shapes if name.startswith("block.layers."))
        layers = [f"block.layers.{index}" for index in range(num_layers)]
        experts = [shapes[f"{layer}.attention.pre_norm.weight"][0] // hidden for layer in layers]
        head_dim = shapes["block.layers.0.attention.q_norm.weight"][0] // experts[0]
        packed = shapes["block.layers.0.attention.linear_qkv.weight"][0] // experts[0]
        ups = [shapes[f"{layer}.mlp.up_gate_proj.weight"][0] for layer in layers]
        downs = [shapes[f"{layer}.mlp.down_proj.weight"][1] for layer in layers]
        return ModelConfig(
            num_layers=num_layers,
            hidden_size=hidden,
            head_dim=head_dim,
            num_query_groups=(packed - hidden - hidden // head_dim) // (2 * head_dim),
            video_in_channels=video,
            audio_in_channels=shapes["adapter.audio_embedder.weight"][1],
            text_in_channels=shapes["adapter.text_embedder.weight"][1],
            mm_layers=tuple(index for index, count in enumerate(experts) if count > 1),
            gelu7_layers=tuple(
                index for index, (up, down) in enumerate(zip(ups, downs, strict=True)) if up == experts[index] * down
            ),
        )
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f"{folder} has no {CONFIG_FILE}, and its tensors are not those of a sandwich transformer ({error}): give "
            "another folder, or the config of the architecture (configs/model/)"
        ) from error


def architecture_of(folder: str | Path) -> ModelConfig:
    """The folder's config or, where it has none, what the weights' shapes say. Raises ValueError as these."""
    return read_config(folder) if (Path(folder) / CONFIG_FILE).is_file() else inferred_config(folder)


def load_model(
    folder: str | Path,
    *,
    config: ModelConfig | None = None,
    compute_dtype: ComputeDtype = "bfloat16",
    parameter_dtype: ParameterDtype = "float32",
    device: str = "cpu",
    attention: AttentionName | AttentionBackend = "auto",
    compile_layers: bool = False,
    activation_checkpointing: ActivationCheckpointing = "none",
) -> SandwichTransformer:
    """Builds the model of a checkpoint folder on the device, without drawing weights or holding them twice.

    Args:
        folder: of safetensors files, with an index when there are several.
        config: of the architecture; by default the folder's own. Released weights come without one.
        compute_dtype: of the layers' matrix products and attention.
        parameter_dtype: "float32", or "as_stored" to keep the dtype of each matrix product's weights. Everything else
            is float32 in any case: rounded norms, embedders and output layers change what the model makes.
        device: where the weights are put.
        attention, compile_layers, activation_checkpointing: as in `SandwichTransformer`.

    Raises:
        ValueError: lists every unreadable file and every missing, unexpected and misshapen tensor.
    """
    files = WeightFiles.scan(folder)
    with torch.device("meta"):
        model = SandwichTransformer(
            config=config or read_config(folder),
            compute_dtype=compute_dtype,
            attention=attention,
            activation_checkpointing=activation_checkpointing,
        )
    names = _fitting_names(model, files)
    log.info("reading %d tensors from %s", len(names), folder)
    state = {
        name: files.read(name, dtype=_dtype_to_hold(name, files, parameter_dtype), device=device) for name in names
    }
    model.load_state_dict(state, assign=True)
    if compile_layers:
        model.compile_layers()
    return model


@torch.no_grad()
def load_weights(model: SandwichTransformer, folder: str | Path) -> None:
    """Fills a model that is built already, whole or sharded (FSDP2): each process reads only its own part of a tensor.

    Parameters keep their dtype and device. For a model larger than one process's memory: build it on the meta device,
    shard it, `model.to_empty(device=...)`, then fill it.

    Raises:
        ValueError: the model is still on the meta device; or as in `load_model`.
    """
    files = WeightFiles.scan(folder)
    names = _fitting_names(model, files)
    state = model.state_dict()
    if any(tensor.is_meta for tensor in state.values()):
        raise ValueError("the model has no memory yet: call model.to_empty(device=...) after sharding, then fill it")
    for name in names:
        target = state[name]
        if isinstance(target, DTensor):
            sizes, starts = compute_local_shape_and_global_offset(target.shape, target.device_mesh, target.placements)
            part = tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
            files.copy_into(target.to_local(), name, part)
        else:
            files.copy_into(target, name)


def _fitting_names(model: SandwichTransformer, files: WeightFiles) -> list[str]:
    """All tensors of the model, when the files hold just these. Warns of those that were stored too coarsely."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    files.require_fit(shapes)
    coarse = [n for n in shapes if not is_matrix_product_weight(n) and files.tensors[n].dtype != torch.float32]
    if coarse:
        log.warning(
            "%s stores %d tensors in half precision that must be fp32 (%s%s): they are read as fp32, but what was "
            "rounded away is lost; take a checkpoint with norms, embedders, output layers and rotary bands in fp32",
            files.folder,
            len(coarse),
            ", ".join(coarse[:MAX_NAMED]),
            ", ..." if len(coarse) > MAX_NAMED else "",
        )
    return list(shapes)


def _dtype_to_hold(name: str, files: WeightFiles, parameter_dtype: ParameterDtype) -> torch.dtype:
    if parameter_dtype == "float32" or not is_matrix_product_weight(name):
        return torch.float32
    return files.tensors[name].dtype or torch.float32
