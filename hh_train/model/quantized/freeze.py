"""Freezing a transformer in fewer bits: one that is there, or one that is read from files and never held whole."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from hh_train.model.attention import AttentionBackend, AttentionName
from hh_train.model.checkpoint import read_config
from hh_train.model.config import ModelConfig
from hh_train.model.modality import ModalityLinear
from hh_train.model.quantized.formats import WeightFormat
from hh_train.model.quantized.linear import FrozenLinear, encoded_by_rows
from hh_train.model.recompute import ActivationCheckpointing
from hh_train.model.transformer import ComputeDtype, SandwichTransformer
from hh_train.model.weight_files import WeightFiles

log = logging.getLogger(__name__)


def quantize_frozen(model: SandwichTransformer, weight_format: WeightFormat) -> SandwichTransformer:
    """Freezes the model in place: the layers' matrix products in the format, all else (norms, embedders, output layers)
    as it is. Returns it.

    Adapters come after this. Raises ValueError for a model whose products are not its own any more.
    """
    names = [name for name, _ in _linears(model)]
    if not names:
        raise ValueError(
            "the model has no plain matrix products left to freeze: quantize it once, and before adapters are attached"
        )
    for name in names:  # one at a time: the weights in full precision go as the encoded ones come
        model.set_submodule(name, FrozenLinear.of(cast(ModalityLinear, model.get_submodule(name)), weight_format))
    return model.requires_grad_(False)


def offload_frozen(model: SandwichTransformer, *, layers: Sequence[int] | None = None) -> None:
    """Keeps the frozen products of some layers (None: of all) in the CPU's memory; see `FrozenLinear.offload`.

    Raises ValueError for layers that there are none of, and for a model without frozen products in them.
    """
    indexes = range(len(model.layers)) if layers is None else layers
    if beyond := [index for index in indexes if not 0 <= index < len(model.layers)]:
        raise ValueError(f"got layers {beyond} to offload; there are layers 0 to {len(model.layers) - 1}")
    found = [m for index in indexes for m in model.layers[index].modules() if isinstance(m, FrozenLinear)]
    if not found:
        raise ValueError("nothing to offload: freeze the model first (quantize_frozen, load_frozen)")
    for linear in found:
        linear.offload()


def load_frozen(
    folder: str | Path,
    *,
    weight_format: WeightFormat,
    config: ModelConfig | None = None,
    compute_dtype: ComputeDtype = "bfloat16",
    device: str = "cpu",
    attention: AttentionName | AttentionBackend = "auto",
    compile_layers: bool = False,
    activation_checkpointing: ActivationCheckpointing = "none",
    offload: bool = False,
) -> SandwichTransformer:
    """Builds the frozen model of a checkpoint folder. Of its weights in full precision, some rows are held at a time.

    Args:
        folder: of safetensors files, with an index when there are several.
        weight_format: of the layers' matrix products; all else is fp32.
        config: of the architecture; by default the folder's own. Released weights come without one.
        compute_dtype, attention, compile_layers, activation_checkpointing: as in `SandwichTransformer`.
        device: where the weights are put, and encoded.
        offload: puts the matrix products into the CPU's memory, one after the other.

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
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    files.require_fit(shapes)
    linears = dict(_linears(model))
    for name, linear in linears.items():
        frozen = _read_linear(files, f"{name}.weight", linear, weight_format, torch.device(device))
        if offload:
            frozen.offload()
        model.set_submodule(name, frozen)
        log.debug("froze %s", name)
    rest = [name for name in shapes if name.removesuffix(".weight") not in linears]
    state = {name: files.read(name, dtype=torch.float32, device=device) for name in rest}
    model.load_state_dict(state, strict=False, assign=True)
    model.requires_grad_(False)
    log.info("read %d tensors from %s, %d of them as %s", len(shapes), folder, len(linears), weight_format.name)
    if compile_layers:
        model.compile_layers()
    return model


def _linears(model: SandwichTransformer) -> Iterator[tuple[str, ModalityLinear]]:
    """The products of the layers by module name, adapters' own left out."""
    for index, layer in enumerate(model.layers):
        for name in ("attention.linear_qkv", "attention.linear_proj", "mlp.up_gate_proj", "mlp.down_proj"):
            module: nn.Module = layer.get_submodule(name)
            if isinstance(module, ModalityLinear):
                yield f"block.layers.{index}.{name}", module


def _read_linear(
    files: WeightFiles, name: str, linear: ModalityLinear, weight_format: WeightFormat, device: torch.device
) -> FrozenLinear:
    num_rows, in_features = linear.weight.shape

    def read(rows: slice) -> Tensor:
        target = torch.empty(rows.stop - rows.start, in_features, dtype=files.tensors[name].dtype, device=device)
        files.copy_into(target, name, (rows, slice(None)))
        return target

    return FrozenLinear(
        weight_format=weight_format,
        parts=encoded_by_rows(weight_format, num_rows, read),
        num_experts=linear.num_experts,
        in_features=in_features,
        compute_dtype=linear.compute_dtype,
    )
