"""Adapter files: safetensors in three key styles, with a record of what they are and what they belong to."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hh_train.model.config import ModelConfig
from hh_train.model.lora.attach import AdapterSet
from hh_train.model.lora.fingerprint import base_fingerprint
from hh_train.model.lora.keys import KEY_STYLES, KeyStyle, parse, styled
from hh_train.model.lora.matrices import (
    MatrixChange,
    PairWeights,
    attach_weights,
    matrix_changes,
    split_changes,
    whole_matrix_cells,
)
from hh_train.model.lora.targets import Cell, RankScale, linear_name, matrix_shape, rank_faults
from hh_train.model.transformer import SandwichTransformer
from hh_train.runtime.distributed import barrier, is_rank_zero

PEFT_WEIGHTS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
RECORD_KEY, CELLS_KEY = "hh_train.adapter", "hh_train.cells"
DIFFUSERS_KEY = "lora_adapter_metadata"
MAX_FAULTS = 8

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AdapterRecord:
    """What an adapter file says of itself, in the file's metadata.

    Args:
        base: fingerprint of the model that it changes.
        trigger_word: that was in the captions.
        config: of the training.
        scores: of the evaluation, by measure.
    """

    base: str | None = None
    trigger_word: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class AdapterFile:
    """A file that was read.

    Args:
        style: of its keys.
        record: empty for a file of another tool.
        changes: of whole matrices, by their names.
        cells: parts and experts that the changes are made of; None where the file does not say.
        weights: the changes taken apart.
    """

    path: Path
    style: str
    record: AdapterRecord
    changes: Mapping[str, MatrixChange]
    cells: Mapping[Cell, RankScale] | None
    weights: Mapping[Cell, PairWeights]


def write_adapter(
    model: SandwichTransformer,
    adapters: AdapterSet,
    path: str | Path,
    *,
    style: KeyStyle = "comfyui",
    record: AdapterRecord | None = None,
    bfloat16: bool = False,
) -> Path:
    """Writes an adapter of the model, or an average of one, whole or not at all, and returns the path.

    `peft` makes a folder, with the configuration that peft reads; the others make one .safetensors file. Every process
    of a sharded model must call it; rank zero writes.

    Raises ValueError for an unknown style and a path that does not go with it.
    """
    path = _path_of(style, path)
    changes = matrix_changes(model, adapters)
    if is_rank_zero():
        write_changes(changes, path, style=style, record=record, cells=adapters.cells, bfloat16=bfloat16)
    barrier()
    return path


def write_changes(
    changes: Mapping[str, MatrixChange],
    path: str | Path,
    *,
    style: KeyStyle,
    record: AdapterRecord | None = None,
    cells: Mapping[Cell, RankScale] | None = None,
    bfloat16: bool = False,
) -> Path:
    """`write_adapter` of changes that are at hand, and of the cells that they are made of. One process calls it."""
    path = _path_of(style, path)
    tensors = styled(changes, style, dtype=torch.bfloat16 if bfloat16 else torch.float32)
    metadata = _metadata(record or AdapterRecord(), changes, cells)
    file = path / PEFT_WEIGHTS if style == "peft" else path
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(file.name + ".unfinished")
    save_file(tensors, unfinished, metadata)
    if style == "peft":  # before the weights, which mean nothing without their scales
        settings = path / (PEFT_CONFIG + ".unfinished")
        settings.write_text(json.dumps(_peft_config(changes), indent=2) + "\n")
        settings.rename(path / PEFT_CONFIG)
    unfinished.rename(file)
    return path


def _path_of(style: KeyStyle, path: str | Path) -> Path:
    path = Path(path)
    if style not in KEY_STYLES:
        raise ValueError(f"got the key style {style!r}, wanted one of {', '.join(KEY_STYLES)}")
    if (path.suffix == ".safetensors") == (style == "peft"):
        wanted = "a folder" if style == "peft" else "a file that ends in .safetensors"
        raise ValueError(f"got the path {path} for the style {style}, wanted {wanted}")
    return path


def read_adapter(path: str | Path, config: ModelConfig) -> AdapterFile:
    """Reads a file, or a folder of peft's, whatever the style of its keys.

    Without a record of parts and experts, as in files of other tools, each expert of a matrix gets its rows of the
    change, which is the same change.

    Raises:
        ValueError: for what is no adapter file, keys of another model or tool, shapes of another architecture and ranks
            over the matrix. Every fault is told.
    """
    path = Path(path)
    file = path / PEFT_WEIGHTS if path.is_dir() else path
    tensors, metadata = _read(file)
    claim = metadata.get("modelspec.architecture") or metadata.get("ss_base_model_version")
    parsed = parse(tensors, source=str(path), claim=claim)
    alphas = PeftAlphas.of_file(file, metadata)
    layout = _cells(metadata.get(CELLS_KEY), file)
    changes, faults, damaged = {}, [], []
    for (layer, matrix), found in parsed.matrices.items():
        linear = linear_name(layer, matrix)
        if layer >= config.num_layers:
            faults.append(f"{linear}: the model has {config.num_layers} layers")
            continue
        shapes = _shape_faults(found, layer, matrix, config, any_rank=layout is not None)
        faults += [f"{linear}: {fault}" for fault in shapes]
        damaged += [f"{linear}: {role}" for role, tensor in found.items() if not tensor.float().isfinite().all()]
        if not shapes:
            changes[layer, matrix] = _change(found, alphas.of(linear, found["down"].shape[0]))
    if faults:
        raise ValueError(f"{path} does not fit the model; it is of a base of another size:\n  {_listed(faults)}")
    if damaged:
        raise ValueError(
            f"{path} has values that are no numbers (NaN or infinite): its training diverged, or the file is damaged. "
            f"Take an earlier one:\n  {_listed(damaged)}"
        )
    named = {linear_name(*place): change for place, change in changes.items()}
    if layout is not None:
        if over := rank_faults(config, layout):
            raise ValueError(f"{path}: {_listed(over)}")
        weights = split_changes(named, layout, config)
    else:
        weights = {
            cell: pair
            for (layer, matrix), change in changes.items()
            for cell, pair in whole_matrix_cells(layer, matrix, change, config).items()
        }
    record = _record(metadata, file)
    return AdapterFile(path=path, style=parsed.style, record=record, changes=named, cells=layout, weights=weights)


def attach_file(
    model: SandwichTransformer,
    name: str,
    path: str | Path,
    *,
    base: str | None = None,
    any_base: bool = False,
) -> AdapterFile:
    """Reads an adapter file and builds it into the model.

    Args:
        name: of the adapter in the model.
        base: fingerprint of the model; by default it is taken from its weights, where they can be read.
        any_base: apply it to a model that it was not trained on, like a student of its base.

    Raises ValueError for a wrong base, and as `read_adapter` and `attach_adapter`.
    """
    found = read_adapter(path, model.config)
    if found.record.base is not None and not any_base:
        base = _fingerprint(model, found) if base is None else base
        if base is not None:
            require_base(found, base)
    attach_weights(model, name, found.weights)
    return found


def require_base(found: AdapterFile, base: str) -> None:
    """Raises ValueError for an adapter that says it was trained on a model of another fingerprint."""
    if found.record.base not in (None, base):
        raise ValueError(
            f"{found.path} was trained on another base: on {found.record.base}, and this model is {base}. Load that "
            "base, or say any_base: true if this model comes from it and you want the adapter on it all the same"
        )


def _fingerprint(model: SandwichTransformer, found: AdapterFile) -> str | None:
    try:
        return base_fingerprint(model)
    except ValueError as error:
        log.warning("%s was trained on base %s, which is not compared: %s", found.path, found.record.base, error)
        return None


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not file.is_file():
        others = sorted(other.name for other in file.parent.glob("*.safetensors"))
        beside = f"; beside it are {', '.join(others)}: name one" if others else ""
        raise ValueError(f"there is no adapter file {file}{beside}")
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - no mapping
            return tensors, dict(opened.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{file} is no safetensors file, or only a part of one: {error}") from error


def _listed(faults: list[str]) -> str:
    more = [f"and {len(faults) - MAX_FAULTS} more"] if len(faults) > MAX_FAULTS else []
    return "\n  ".join(faults[:MAX_FAULTS] + more)


def _change(found: Mapping[str, Tensor], peft_alpha: float) -> MatrixChange:
    magnitude, gained = found.get("magnitude"), found.get("gained")
    return MatrixChange(
        down=found["down"].float(),
        up=found["up"].float(),
        alpha=float(found["alpha"]) if "alpha" in found else peft_alpha,
        magnitude=None if magnitude is None else magnitude.float().flatten(),
        gained=None if gained is None else gained.float().flatten(),
    )


def _shape_faults(
    found: Mapping[str, Tensor], layer: int, matrix: str, config: ModelConfig, *, any_rank: bool
) -> list[str]:
    shape = matrix_shape(config, layer, matrix)
    down, up = tuple(found["down"].shape), tuple(found["up"].shape)
    total = shape.num_experts * shape.rows
    if len(down) != 2 or len(up) != 2 or down[0] != up[1]:
        return [f"factors of {down} and {up} are no pair"]
    faults = []
    if "alpha" in found and found["alpha"].numel() != 1:
        faults.append(f"has alpha of {tuple(found['alpha'].shape)}, which is one number")
    if down[1] != shape.columns or up[0] not in (shape.rows, total):
        faults.append(f"changes a matrix of {up[0]} x {down[1]}, the model's is {total} x {shape.columns}")
    elif down[0] > min(up[0], down[1]) and not any_rank:
        faults.append(f"its rank {down[0]} is over that of the matrix of {up[0]} x {down[1]}")
    for role in ("magnitude", "gained"):
        if role in found and tuple(found[role].shape) not in ((up[0],), (up[0], 1)):
            faults.append(f"has lengths of {tuple(found[role].shape)} for {up[0]} rows (those of columns are not read)")
    return faults


def _metadata(
    record: AdapterRecord, changes: Mapping[str, MatrixChange], cells: Mapping[Cell, RankScale] | None
) -> dict[str, str]:
    """Also in the fields that other tools show."""
    scales = cells if cells is not None else {key: RankScale(one.rank, one.alpha) for key, one in changes.items()}
    rank = Counter(scale.rank for scale in scales.values()).most_common(1)[0][0]
    alpha = Counter(scale.alpha for scale in scales.values()).most_common(1)[0][0]
    metadata = {
        "format": "pt",
        RECORD_KEY: json.dumps({**asdict(record), "rank": rank, "alpha": alpha}, sort_keys=True),
        "modelspec.architecture": "magihuman/lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(alpha),
    }
    if cells is not None:
        metadata[CELLS_KEY] = json.dumps({cell.address: [scale.rank, scale.alpha] for cell, scale in cells.items()})
    if record.trigger_word is not None:
        metadata["modelspec.trigger_phrase"] = record.trigger_word
    if record.base is not None:
        metadata["hh_train.base"] = record.base
    return metadata


def _record(metadata: Mapping[str, str], file: Path) -> AdapterRecord:
    if RECORD_KEY not in metadata:
        return AdapterRecord(trigger_word=metadata.get("modelspec.trigger_phrase"))
    stored = _json(metadata[RECORD_KEY], f"{file}: its metadata {RECORD_KEY}")
    return AdapterRecord(**{field.name: stored[field.name] for field in fields(AdapterRecord) if field.name in stored})


def _cells(stored: str | None, file: Path) -> dict[Cell, RankScale] | None:
    if stored is None:
        return None
    try:
        cells = {
            Cell.parse(address): RankScale(int(rank), float(alpha))
            for address, (rank, alpha) in json.loads(stored).items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: its metadata {CELLS_KEY} cannot be read: {error}") from error
    if odd := [cell.address for cell, scale in cells.items() if scale.rank < 1]:
        raise ValueError(f"{file}: its metadata {CELLS_KEY} has ranks below 1: {_listed(odd)}")
    return cells


def _json(text: str, what: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{what} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{what} is {type(found).__name__}, wanted a mapping")
    return found


def _peft_config(changes: Mapping[str, MatrixChange]) -> dict[str, Any]:
    """What peft's LoraConfig reads; every matrix by its whole name."""
    rank = Counter(change.rank for change in changes.values()).most_common(1)[0][0]
    alpha = Counter(change.alpha for change in changes.values()).most_common(1)[0][0]
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {linear: change.rank for linear, change in changes.items() if change.rank != rank},
        "alpha_pattern": {linear: change.alpha for linear, change in changes.items() if change.alpha != alpha},
        "target_modules": list(changes),
        "use_dora": any(change.magnitude is not None for change in changes.values()),
        "use_rslora": False,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


@dataclass(frozen=True)
class PeftAlphas:
    """Scales from a configuration of peft's. Without one, changes count as they are: alpha is the rank."""

    config: Mapping[str, Any] | None

    @classmethod
    def of_file(cls, file: Path, metadata: Mapping[str, str]) -> PeftAlphas:
        """From the folder that peft writes, or from the metadata that diffusers writes.

        Raises ValueError for a configuration that cannot be read.
        """
        beside = file.with_name(PEFT_CONFIG)
        if file.name == PEFT_WEIGHTS and beside.is_file():
            return cls(_json(beside.read_text(encoding="utf-8"), str(beside)))
        if DIFFUSERS_KEY not in metadata:
            return cls(None)
        stored = _json(metadata[DIFFUSERS_KEY], f"{file}: its metadata {DIFFUSERS_KEY}")
        own = {key.removeprefix("transformer."): value for key, value in stored.items()}
        return cls(own if "lora_alpha" in own else None)

    def of(self, linear: str, rank: int) -> float:
        if self.config is None:
            return float(rank)
        patterns: Mapping[str, float] = self.config.get("alpha_pattern") or {}
        own = next((a for key, a in patterns.items() if re.match(rf"(.*\.)?({key})$", linear)), None)
        alpha = float(self.config.get("lora_alpha", rank) if own is None else own)
        return alpha * rank**0.5 if self.config.get("use_rslora") else alpha
