"""Telling base models apart by a sample of their weights, however these are stored."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from torch.distributed.tensor import DTensor

from hh_train.model.lora.attach import without_adapters
from hh_train.model.transformer import SandwichTransformer
from hh_train.model.weight_files import WeightFiles

SAMPLED_ROWS = 15
"""Of each tensor, evenly spaced: some of every expert."""
DIGITS = 32


def base_fingerprint(model: SandwichTransformer) -> str:
    """Of a model that is not sharded and holds its weights as such; adapters do not count.

    It is the same for weights in fp32 and for those weights rounded to bf16.

    Raises ValueError where the weights cannot be read: the fingerprint of their folder is the same.
    """
    with without_adapters(model), torch.device("meta"):
        state = model.state_dict()
        expected = SandwichTransformer(config=model.config).state_dict().keys()
    odd = [n for n, t in state.items() if isinstance(t, DTensor) or t.is_meta or n not in expected or t.itemsize < 2]
    odd += [name for name in expected if name not in state]
    if odd:
        raise ValueError(
            f"the base is sharded, quantized or not loaded ({', '.join(odd[:2])}): take the fingerprint of its folder"
        )
    sampled = ((name, torch.stack([state[name][row] for row in _rows(len(state[name]))])) for name in sorted(state))
    return _digest(sampled)


def folder_fingerprint(folder: str | Path) -> str:
    """Of a checkpoint folder. Raises ValueError as `WeightFiles.scan`."""
    files = WeightFiles.scan(folder)
    by_file: dict[Path, list[str]] = defaultdict(list)
    for name, stored in files.tensors.items():
        by_file[stored.file].append(name)
    sampled: dict[str, Tensor] = {}
    for file, names in by_file.items():
        with safe_open(file, framework="pt") as opened:
            for name in names:
                part = opened.get_slice(name)
                sampled[name] = torch.stack([part[row : row + 1][0] for row in _rows(part.get_shape()[0])])
    return _digest((name, sampled[name]) for name in sorted(sampled))


def _rows(size: int) -> list[int]:
    count = min(size, SAMPLED_ROWS)
    return [index * size // count for index in range(count)]


def _digest(sampled: Iterator[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sampled:
        rounded = tensor.detach().to("cpu", torch.bfloat16).contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} ".encode())
        digest.update(rounded.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:DIGITS]
