"""Self-attention over a pack: every token sees all tokens of its own clip and none of another's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class AttentionBackend(Protocol):
    """Softmax attention within each clip, scaled by 1/sqrt(D). Query head i uses key-value head i // (Hq / Hk)."""

    def __call__(
        self,
        query: Float[Tensor, "N Hq D"],
        key: Float[Tensor, "N Hk D"],
        value: Float[Tensor, "N Hk D"],
        lengths: tuple[int, ...],
    ) -> Float[Tensor, "N Hq D"]: ...


@dataclass(frozen=True, kw_only=True)
class PerClipAttention:
    """`scaled_dot_product_attention` clip by clip, neighbours of equal length in one call. Runs on every device.

    On a CPU, bf16 scores of clips up to `longest_written_out` tokens are written out instead: the fused kernel takes
    longer there (scripts/bench_attention.py prints the ratio).
    """

    longest_written_out: int = 1024

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...]) -> Tensor:
        repeats = query.shape[1] // key.shape[1]
        if repeats > 1:
            key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
        outputs, start = [], 0
        for num_clips, length in _runs(lengths):
            end = start + num_clips * length
            q, k, v = (x[start:end].unflatten(0, (num_clips, length)).transpose(1, 2) for x in (query, key, value))
            is_short = q.device.type == "cpu" and q.dtype == torch.bfloat16 and length <= self.longest_written_out
            attend = written_out_attention if is_short else F.scaled_dot_product_attention
            outputs.append(attend(q, k, v).transpose(1, 2).flatten(0, 1))
            start = end
        return torch.cat(outputs)


def written_out_attention(
    query: Float[Tensor, "B H L D"], key: Float[Tensor, "B H L D"], value: Float[Tensor, "B H L D"]
) -> Float[Tensor, "B H L D"]:
    """Softmax attention with its scores written out; the softmax in fp32."""
    scores = torch.matmul(query, key.transpose(-1, -2)) * query.shape[-1] ** -0.5
    return torch.matmul(scores.float().softmax(-1).to(value.dtype), value)


def _runs(lengths: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """(7, 7, 5) -> (2, 7), (1, 5)."""
    for length, run in groupby(lengths):
        yield len(list(run)), length
