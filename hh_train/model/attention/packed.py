"""Kernels that take many segments in one call, each known by where it starts: torch's varlen attention, flash-attn.

Both run on CUDA alone, in 16 bits, and take key-value heads that several query heads share as they are.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from hh_train.model.attention.pattern import AttentionPattern, SegmentRun
from hh_train.model.attention.segments import MAX_GATHERED_KEYS, attend_by_segments

FlashVersion = Literal[2, 3, 4]
FLASH_MODULES: dict[FlashVersion, str] = {4: "flash_attn.cute", 3: "flash_attn_interface", 2: "flash_attn"}
"""Where each version of flash-attn defines `flash_attn_varlen_func`; the newest first."""
FLASH_GENERATIONS: dict[FlashVersion, tuple[int, ...]] = {4: (9, 10, 11), 3: (9,), 2: (8, 9, 10, 11, 12)}
"""Major compute capabilities that each version has kernels for."""
FLASH_HEAD_DIMS: dict[FlashVersion, int] = {4: 128, 3: 256, 2: 256}
"""The widest head."""


@dataclass(frozen=True, kw_only=True)
class VarlenAttention:
    """`torch.nn.attention.varlen`: flash attention that comes with torch."""

    max_gathered_keys: int = MAX_GATHERED_KEYS

    @property
    def name(self) -> str:
        return "torch.nn.attention.varlen"

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, pattern: AttentionPattern) -> Tensor:
        return attend_by_segments(self._attend, query, key, value, pattern, max_gathered_keys=self.max_gathered_keys)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, run: SegmentRun) -> Tensor:
        query_starts, key_starts = run.boundaries(query.device)
        attended = varlen_attn(
            query,
            key,
            value,
            cu_seq_q=query_starts,
            cu_seq_k=key_starts,
            max_q=max(run.query_lengths),
            max_k=max(run.key_lengths),
            enable_gqa=query.shape[1] != key.shape[1],
        )
        assert isinstance(attended, Tensor)
        return attended


@dataclass(frozen=True, kw_only=True)
class FlashAttention:
    """`flash_attn_varlen_func` of flash-attn 2, 3 (module `flash_attn_interface`) or 4 (`flash_attn.cute`)."""

    version: FlashVersion
    max_gathered_keys: int = MAX_GATHERED_KEYS

    @property
    def name(self) -> str:
        return f"flash-attn {self.version}"

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, pattern: AttentionPattern) -> Tensor:
        return attend_by_segments(self._attend, query, key, value, pattern, max_gathered_keys=self.max_gathered_keys)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, run: SegmentRun) -> Tensor:
        query_starts, key_starts = run.boundaries(query.device)
        attended = flash_function(self.version)(
            query,
            key,
            value,
            cu_seqlens_q=query_starts,
            cu_seqlens_k=key_starts,
            max_seqlen_q=max(run.query_lengths),
            max_seqlen_k=max(run.key_lengths),
        )
        output: Tensor = attended[0] if isinstance(attended, tuple) else attended  # some versions add the log-sum-exp
        return output


@cache
def flash_function(version: FlashVersion) -> Callable[..., Any]:
    """Raises ImportError that says why this version of flash-attn cannot be had."""
    name = FLASH_MODULES[version]
    try:
        function: Callable[..., Any] = importlib.import_module(name).flash_attn_varlen_func
    except (ImportError, AttributeError, OSError) as error:  # an extension built for another torch fails in any of them
        raise ImportError(f"module {name} of flash-attn {version}: {error}") from error
    return function


def half_precision_faults(dtype: torch.dtype) -> list[str]:
    """What keeps 16-bit kernels from a dtype."""
    if dtype in (torch.bfloat16, torch.float16):
        return []
    return [f"it computes in bfloat16 or float16, not in {str(dtype).removeprefix('torch.')}"]


def head_faults(head_dim: int, *, widest: int) -> list[str]:
    """What keeps kernels from a width of heads."""
    if head_dim % 8 == 0 and head_dim <= widest:
        return []
    return [f"it takes heads of a multiple of 8 up to {widest}, not of {head_dim}"]
