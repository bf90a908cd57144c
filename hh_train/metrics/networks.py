"""Networks that somebody else trained, opened by path: what they weigh goes into the protocol of what they measure."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


def load_torchscript(path: str | Path, *, device: str = "cpu") -> Callable[..., Any]:
    """A TorchScript module, ready to be called without gradients.

    Raises:
        ValueError: there is no such file, or it holds no TorchScript.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"got {file}, which is no file; wanted a TorchScript module saved by torch.jit.save")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the published extractors come in this format
        try:
            module: nn.Module = torch.jit.load(str(file), map_location=device)
        except RuntimeError as error:
            raise ValueError(
                f"{file} holds no TorchScript: save the network by torch.jit.save, not its state alone"
            ) from error
    module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module


def load_transformers(class_name: str, source: str, *, device: str = "cpu") -> nn.Module:
    """A model of the transformers library by folder or id, in fp32, without gradients.

    Raises:
        ValueError: the source holds no such model.
    """
    import transformers

    try:
        model = getattr(transformers, class_name).from_pretrained(source, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ValueError(f"{source!r} cannot be opened as a {class_name}: {error}") from error
    module: nn.Module = model.to(device).eval().requires_grad_(False)
    return module


def file_fingerprint(path: str | Path) -> str:
    """Of a file's bytes. Raises ValueError where there is no file."""
    if not Path(path).is_file():
        raise ValueError(f"got {path}, which is no file")
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def weights_fingerprint(network: nn.Module) -> str:
    """Of the names and values of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
