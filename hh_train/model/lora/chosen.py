"""Adapter files that a command names: on the base that it loads, or written anew in another key style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch

from hh_train.model.checkpoint import ParameterDtype, architecture_of, load_model
from hh_train.model.config import ModelConfig
from hh_train.model.lora.files import AdapterFile, read_adapter, require_base, write_changes
from hh_train.model.lora.fingerprint import folder_fingerprint
from hh_train.model.lora.keys import KeyStyle
from hh_train.model.lora.matrices import MatrixChange, attach_weights
from hh_train.model.lora.merge import fold_adapters
from hh_train.model.transformer import ComputeDtype, SandwichTransformer
from hh_train.model.weight_files import WeightFiles


class AdapterChoice(TypedDict):
    """One adapter in a configuration, like `{path: my.safetensors, weight: 0.8}`.

    `weight` multiplies its change and is 1 by default. `any_base: true` puts it on a model that it was not trained on.
    """

    path: Path
    weight: NotRequired[float]
    any_base: NotRequired[bool]


def as_records(adapters: Sequence[AdapterChoice]) -> list[dict[str, Any]]:
    """The choices for a JSON file."""
    return [{**choice, "path": str(choice["path"])} for choice in adapters]


def load_with_adapters(
    folder: str | Path,
    adapters: Sequence[AdapterChoice],
    *,
    compute_dtype: ComputeDtype = "bfloat16",
    parameter_dtype: ParameterDtype = "float32",
    device: str = "cpu",
) -> SandwichTransformer:
    """`load_model`, with the changes of adapter files added to its weights: it costs what the base alone costs.

    Raises ValueError as `load_model` and `attach_file`; for what is wrong with an adapter, before the weights are read.
    """
    config = architecture_of(folder)
    files = [_read_for(folder, choice, config) for choice in adapters]
    model = load_model(
        folder, config=config, compute_dtype=compute_dtype, parameter_dtype=parameter_dtype, device=device
    )
    weights = {}
    for number, (choice, found) in enumerate(zip(adapters, files, strict=True)):
        attach_weights(model, f"adapter_{number}", found.weights)
        weights[f"adapter_{number}"] = choice.get("weight", 1.0)
    fold_adapters(model, weights)
    return model


def _read_for(base: str | Path, choice: AdapterChoice, config: ModelConfig) -> AdapterFile:
    found = read_adapter(choice["path"], config)
    if found.record.base is not None and not choice.get("any_base", False):
        require_base(found, folder_fingerprint(base))
    return found


def convert_adapter(
    choice: AdapterChoice, base: str | Path, path: str | Path, *, style: KeyStyle, bfloat16: bool = False
) -> Path:
    """Writes an adapter file in another key style, with the record of the old one, and returns the path.

    Args:
        choice: the file; it keeps its strength.
        base: checkpoint folder of the model that it changes.
        path, style, bfloat16: as in `write_adapter`.

    Raises ValueError as `read_adapter` and `attach_file`, and for a weight other than 1.
    """
    if choice.get("weight", 1.0) != 1:
        raise ValueError(
            f"got the weight {choice.get('weight')} for {choice['path']}: a file in another style keeps its strength. "
            "Leave the weight out and give it where the file is used, or merge it into the base (format=checkpoint)"
        )
    found = _read_for(base, choice, architecture_of(base))
    changes = _whole_changes(found, WeightFiles.scan(base))
    return write_changes(changes, path, style=style, record=found.record, cells=found.cells, bfloat16=bfloat16)


def _whole_changes(found: AdapterFile, files: WeightFiles) -> Mapping[str, MatrixChange]:
    """Of all rows of the matrices, with DoRA's lengths in both senses. Reads a matrix of the base at a time."""
    changes = {}
    for linear, change in found.changes.items():
        name = f"{linear}.weight"
        repeats = files.tensors[name].shape[0] // change.up.shape[0]  # rows of one expert are meant for each
        whole = replace(
            change,
            up=change.up.repeat(repeats, 1),
            magnitude=None if change.magnitude is None else change.magnitude.repeat(repeats),
            gained=None if change.gained is None else change.gained.repeat(repeats),
        )
        if whole.magnitude is not None or whole.gained is not None:
            whole = _with_all_lengths(whole, files.read(name, dtype=torch.float32, device="cpu"))
        changes[linear] = whole
    return changes


def _with_all_lengths(change: MatrixChange, weight: torch.Tensor) -> MatrixChange:
    ratio = (weight + change.alpha / change.rank * change.up @ change.down).norm(dim=1) / weight.norm(dim=1)
    if change.gained is not None:
        return replace(change, magnitude=change.gained * ratio)
    assert change.magnitude is not None
    return replace(change, gained=change.magnitude / ratio)
