"""Which kernel computes attention: the one asked for, or the best that device, dtype and installation allow.

The choice falls at the first forward pass, when the tensors show their device; it is logged once.
"""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.utils._triton import has_triton

from hh_train.model.attention.flex import FlexAttention
from hh_train.model.attention.packed import (
    FLASH_GENERATIONS,
    FLASH_HEAD_DIMS,
    FLASH_MODULES,
    FlashAttention,
    FlashVersion,
    VarlenAttention,
    flash_function,
    half_precision_faults,
    head_faults,
)
from hh_train.model.attention.pattern import AttentionBackend, AttentionPattern
from hh_train.model.attention.per_clip import PerClipAttention

AttentionName = Literal["auto", "sdpa", "varlen", "flash", "flex"]
Backend = PerClipAttention | VarlenAttention | FlashAttention | FlexAttention
MIN_FLEX_HEAD_DIM = 16
VARLEN_HEAD_DIM = 256
FIRST_TENSOR_CORE_BF16 = 8
"""Major compute capability of the first GPUs with bf16 kernels (Ampere)."""
BEST_FULL: tuple[str, ...] = ("flash", "varlen", "sdpa")
BEST_LOCAL: tuple[str, ...] = ("flex", "flash", "varlen", "sdpa")
"""Flex masks, where the others gather the keys of every frame."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class AttentionChoice:
    """An `AttentionBackend` that hands on to the one called `name`; "auto" picks one for full and one for local layers.

    Without CUDA "auto" is "sdpa". Raises ValueError for an unknown name and, at the latest when it is called, for a
    backend that cannot run: it says what is missing.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in get_args(AttentionName):
            raise ValueError(f"got attention {self.name!r}; wanted one of {', '.join(get_args(AttentionName))}")

    def require(self, *, dtype: torch.dtype, head_dim: int, device: torch.device | None = None) -> None:
        """Raises ValueError when the backend cannot run: on the device; without one, on any of this machine's."""
        if self.name == "auto":
            return
        _, faults = _candidate(self.name, dtype, head_dim, device)
        if faults:
            raise ValueError(_refusal(self.name, faults))

    def resolve(self, *, dtype: torch.dtype, head_dim: int, device: torch.device, local: bool = False) -> Backend:
        """The backend for tensors of these kinds. Raises ValueError when the one asked for cannot run."""
        return _resolve(self.name, dtype, head_dim, device, local)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, pattern: AttentionPattern) -> Tensor:
        backend: AttentionBackend = _resolve(self.name, query.dtype, query.shape[-1], query.device, pattern.is_local)
        return backend(query, key, value, pattern)


def attention_backend(
    attention: AttentionName | AttentionBackend, *, dtype: torch.dtype, head_dim: int
) -> AttentionBackend:
    """The backend of a name, or the one given, for a model under construction.

    Raises ValueError for an unknown name and for a backend that cannot run on this machine; a model on the meta device
    may be made for another one, so that what it lacks shows in its first forward pass.
    """
    if not isinstance(attention, str):
        return attention
    choice = AttentionChoice(name=attention)
    if torch.get_default_device().type != "meta":
        choice.require(dtype=dtype, head_dim=head_dim)
    return choice


@cache
def _resolve(name: str, dtype: torch.dtype, head_dim: int, device: torch.device, local: bool) -> Backend:
    names = (name,) if name != "auto" else BEST_LOCAL if local else BEST_FULL
    refused = []
    for candidate in names:
        backend, faults = _candidate(candidate, dtype, head_dim, device)
        if not faults:
            log.info("%s attention: %s (%s)", "local" if local else "full", backend.name, name)
            return backend
        refused.append(_refusal(candidate, faults))
    raise ValueError("; ".join(refused))


def _refusal(name: str, faults: list[str]) -> str:
    return f'attention "{name}" cannot run: {"; ".join(faults)}. Set attention to "auto" for what can run here'


def _candidate(name: str, dtype: torch.dtype, head_dim: int, device: torch.device | None) -> tuple[Backend, list[str]]:
    """The backend, and what keeps it from running on the device (None: anywhere on this machine)."""
    if name == "varlen":
        return VarlenAttention(), _varlen_faults(dtype, head_dim, device)
    if name == "flash":
        return _newest_flash(dtype, head_dim, device)
    if name == "flex":
        return FlexAttention(), _flex_faults(dtype, head_dim, device)
    return PerClipAttention(), []


def _varlen_faults(dtype: torch.dtype, head_dim: int, device: torch.device | None) -> list[str]:
    faults = half_precision_faults(dtype) + head_faults(head_dim, widest=VARLEN_HEAD_DIM) + _cuda_faults(device)
    if "enable_gqa" not in inspect.signature(varlen_attn).parameters:
        faults.append(f"that of torch {torch.__version__} knows no shared key-value heads: install a newer torch")
    return faults or _generation_faults(device, range(FIRST_TENSOR_CORE_BF16, 100))


def _newest_flash(dtype: torch.dtype, head_dim: int, device: torch.device | None) -> tuple[FlashAttention, list[str]]:
    general = half_precision_faults(dtype) + _cuda_faults(device)
    faults: list[str] = []
    for version in FLASH_MODULES:
        reasons = _flash_faults(version, head_dim, None if general else device)
        if not reasons and not general:
            return FlashAttention(version=version), []
        faults.extend(f"flash-attn {version}: {reason}" for reason in reasons)
    return FlashAttention(version=2), general + faults


def _flash_faults(version: FlashVersion, head_dim: int, device: torch.device | None) -> list[str]:
    try:
        flash_function(version)
    except ImportError as error:
        return [f"not installed ({error})"]
    return head_faults(head_dim, widest=FLASH_HEAD_DIMS[version]) + _generation_faults(
        device, FLASH_GENERATIONS[version]
    )


def _flex_faults(dtype: torch.dtype, head_dim: int, device: torch.device | None) -> list[str]:
    faults = _cuda_faults(device)
    if dtype not in (torch.bfloat16, torch.float16, torch.float32):
        faults.append(f"it computes in bfloat16, float16 or float32, not in {str(dtype).removeprefix('torch.')}")
    if head_dim < MIN_FLEX_HEAD_DIM:
        faults.append(f"it takes heads of {MIN_FLEX_HEAD_DIM} or more, not of {head_dim}")
    if not faults and not has_triton():
        faults.append("its kernels need triton, which is not installed or does not know the device")
    return faults


def _cuda_faults(device: torch.device | None) -> list[str]:
    if not torch.cuda.is_available():
        return ["it needs CUDA, and torch sees no CUDA device"]
    if device is not None and device.type != "cuda":
        return [f"it needs CUDA, and the model is on {device}"]
    return []


def _generation_faults(device: torch.device | None, wanted: tuple[int, ...] | range) -> list[str]:
    if device is None:
        return []
    major, minor = torch.cuda.get_device_capability(device)
    if major in wanted:
        return []
    return [f"no kernels for compute capability {major}.{minor}, which has {wanted[0]}.x to {wanted[-1]}.x"]
