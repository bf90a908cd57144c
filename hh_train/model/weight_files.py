"""The safetensors files of a checkpoint folder: what lies where, and reading it tensor by tensor or part by part."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
MAX_LISTED_FILES = 12


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies and what it is; `dtype` is None for one that no weight of a model may have."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype | None


@dataclass(frozen=True, kw_only=True)
class WeightFiles:
    """The tensors of a checkpoint folder by name. Only headers are held; each read opens its file anew.

    A file stays mapped for one read alone, so that its pages never add up to a second copy of the model in memory.
    """

    folder: Path
    tensors: Mapping[str, StoredTensor]
    faults: tuple[str, ...]
    """What is wrong with the files themselves; `require_fit` tells it."""
    lost: frozenset[str] | None
    """Tensors that the faults explain; None when a file is unreadable and no index says what it should hold."""

    @classmethod
    def scan(cls, folder: str | Path) -> WeightFiles:
        """Reads the index, if any, and every file's header.

        Raises ValueError when the folder holds no weights of this layout, or an index that cannot be read.
        """
        folder = Path(folder)
        if (folder / INDEX_FILE).is_file():
            placed = _read_index(folder / INDEX_FILE)
            names = sorted(set(placed.values()))
        elif (folder / WEIGHTS_FILE).is_file():
            placed, names = None, [WEIGHTS_FILE]
        else:
            raise ValueError(_no_weights(folder))
        tensors: dict[str, StoredTensor] = {}
        faults: list[str] = []
        unreadable = False
        for name in names:
            try:
                stored = _read_header(folder / name)
            except (SafetensorError, OSError) as error:
                unreadable = True
                reason = f"unreadable (truncated?): {name}: {error}" if (folder / name).exists() else f"no file {name}"
                faults.append(reason)
                continue
            if placed is not None:
                faults += _misplaced(name, set(stored), placed)
            tensors |= stored
        lost = frozenset(placed or ()) - set(tensors)
        return cls(
            folder=folder,
            tensors=tensors,
            faults=tuple(faults),
            lost=None if placed is None and unreadable else lost,
        )

    def require_fit(self, wanted: Mapping[str, tuple[int, ...]]) -> None:
        """Raises ValueError that lists the files' faults and every missing, unexpected, misshapen or odd tensor."""
        faults = list(self.faults)
        if self.lost is not None:
            absent = [name for name in wanted if name not in self.tensors and name not in self.lost]
            faults += [f"missing: {name} {wanted[name]}" for name in absent]
        for name, stored in self.tensors.items():
            if name not in wanted:
                faults.append(f"unexpected: {name} {stored.shape}")
                continue
            if stored.shape != wanted[name]:
                faults.append(f"misshapen: {name} is {stored.shape}, the config wants {wanted[name]}")
            if stored.dtype is None:
                faults.append(f"of no usable type: {name}; wanted one of {', '.join(DTYPES)}")
        if faults:
            raise ValueError(
                f"the weights in {self.folder} do not fit the model config:\n  "
                + "\n  ".join(faults)
                + "\nUse the folder's own config, or a whole checkpoint of this architecture."
            )

    def read(self, name: str, *, dtype: torch.dtype, device: torch.device | str) -> Tensor:
        """A tensor of its own memory on the device."""
        target = torch.empty(self.tensors[name].shape, dtype=dtype, device=device)
        self.copy_into(target, name)
        return target

    def copy_into(self, target: Tensor, name: str, part: tuple[slice, ...] = ()) -> None:
        """Writes a tensor, or its part, into `target` of the same shape, in the dtype and on the device of that."""
        if target.numel() == 0:
            return
        with safe_open(self.tensors[name].file, framework="pt") as file:
            target.copy_(file.get_slice(name)[part] if part else file.get_tensor(name))


def _read_header(file: Path) -> dict[str, StoredTensor]:
    found = {}
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - no mapping
            header = tensors.get_slice(name)
            found[name] = StoredTensor(file, tuple(header.get_shape()), DTYPES.get(header.get_dtype()))
    return found


def _read_index(index: Path) -> dict[str, str]:
    """File names by tensor name. Raises ValueError for what is no index of this folder's files."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON or of UTF-8
        raise ValueError(f"{index} is no JSON: {error}. Download it again") from error
    placed = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(placed, dict) or not placed:
        raise ValueError(f"{index} has no weight_map of tensor names to file names. Download it again")
    odd = sorted({repr(file) for file in placed.values() if not isinstance(file, str) or Path(file).name != file})
    if odd:
        raise ValueError(f"{index} places tensors in {', '.join(odd)}; wanted names of files beside it")
    return placed


def _misplaced(file: str, stored: set[str], placed: Mapping[str, str]) -> list[str]:
    promised = [name for name, place in placed.items() if place == file]
    faults = [f"not in its file: {name}, which the index places in {file}" for name in promised if name not in stored]
    strays = sorted(stored - set(promised))
    return faults + [f"not in the index: {name}, which lies in {file}" for name in strays]


def _no_weights(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder} is no checkpoint folder: there is no such folder"
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        return (
            f"{folder} is no checkpoint folder: it holds pickles ({', '.join(pickles)}), which are not read since they "
            f"can run code; wanted {WEIGHTS_FILE} or {INDEX_FILE}. Convert them with safetensors.torch.save_file"
        )
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    listed = ", ".join(names[:MAX_LISTED_FILES]) + (" ..." if len(names) > MAX_LISTED_FILES else "")
    return (
        f"{folder} is no checkpoint folder: wanted {WEIGHTS_FILE} or {INDEX_FILE} with the files it names; "
        f"it holds {listed or 'nothing'}"
    )
