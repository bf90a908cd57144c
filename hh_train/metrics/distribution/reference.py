"""Features of real clips in a file: a reference that stays the same for every evaluation, whatever it scores."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

Features = Mapping[str, Float[Tensor, "_ _"]]
"""Of one clip: rows by what they are made of, as `Measured.features` has them."""


def write_reference(path: str | Path, clips: Mapping[str, Features], *, extractors: Mapping[str, str]) -> Path:
    """Writes the features of clips, by their keys, and what made them. The file appears when it is complete.

    Args:
        path: of a safetensors file.
        clips: features by key.
        extractors: fingerprints, by the same names as the features.

    Raises:
        ValueError: no clip has features, or some are of no extractor.
    """
    kinds = {kind for features in clips.values() for kind in features}
    if not kinds or not kinds <= set(extractors):
        raise ValueError(f"got features {sorted(kinds)} and extractors {sorted(extractors)}; wanted some of these")
    tensors: dict[str, Tensor] = {}
    keys = {kind: [key for key, features in clips.items() if kind in features] for kind in sorted(kinds)}
    for kind, members in keys.items():
        rows = [clips[key][kind].double() for key in members]
        tensors[f"{kind}.rows"] = torch.cat(rows)
        tensors[f"{kind}.counts"] = torch.tensor([part.shape[0] for part in rows])
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    used = {kind: extractors[kind] for kind in keys}
    save_file(tensors, partial, metadata={"keys": json.dumps(keys), "extractors": json.dumps(used)})
    partial.replace(target)
    return target


def read_reference(path: str | Path, *, extractors: Mapping[str, str]) -> dict[str, dict[str, Tensor]]:
    """Reads what `write_reference` wrote: features by the clips' keys.

    Raises:
        ValueError: there is no such file, or it lacks features of one of the extractors, or has them of another.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"there is no reference {file}; write it with DistributionMeasurer.write_reference")
    try:
        with safe_open(str(file), framework="pt") as stored:
            metadata = stored.metadata() or {}
            keys, made_by = json.loads(metadata["keys"]), json.loads(metadata["extractors"])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} is no reference that write_reference wrote: {error}") from error
    clips: dict[str, dict[str, Tensor]] = {}
    for kind, fingerprint in extractors.items():
        if made_by.get(kind) != fingerprint:
            raise ValueError(
                f"the reference {file} has {kind} features of {made_by.get(kind, 'nothing')}; these clips' are of "
                f"{fingerprint}: write a reference with this extractor"
            )
        parts = tensors[f"{kind}.rows"].split(tensors[f"{kind}.counts"].tolist())
        for key, rows in zip(keys[kind], parts, strict=True):
            clips.setdefault(key, {})[kind] = rows
    return clips
