"""Attention of one segment after another by `scaled_dot_product_attention`: for CPUs, fp32, and wherever else fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from hh_train.model.attention.pattern import AttentionPattern, SegmentRun
from hh_train.model.attention.segments import attend_by_segments
from hh_train.model.attention.written_out import SegmentGroup, written_out_attention


@dataclass(frozen=True, kw_only=True)
class PerClipAttention:
    """`scaled_dot_product_attention` clip by clip (local attention: frame by frame), neighbours of equal sizes in one
    call. Runs on every device and in every dtype.

    On a CPU, bf16 scores are written out instead where none has more than `longest_written_out` squared: the fused
    kernel takes longer there (scripts/bench_attention.py prints the ratio).
    """

    longest_written_out: int = 1024
    max_gathered_keys: int = 8192
    """Bounds what local attention copies at a time: a CPU is fastest when it stays near its caches."""

    @property
    def name(self) -> str:
        return "sdpa, clip by clip"

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, pattern: AttentionPattern) -> Tensor:
        return attend_by_segments(self._attend, query, key, value, pattern, max_gathered_keys=self.max_gathered_keys)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, run: SegmentRun) -> Tensor:
        groups = list(_equal_neighbours(run))
        if query.device.type == "cpu" and query.dtype == torch.bfloat16 and self._are_short(groups):
            return written_out_attention(query, key, value, groups)
        repeats = query.shape[1] // key.shape[1]
        if repeats > 1:
            key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
        queries_of, keys_of = ([group[0] * group[part] for group in groups] for part in (1, 2))
        outputs = []  # split once: as many slices would each fill a gradient of the whole with zeros
        for (count, _, _), *parts in zip(
            groups, query.split(queries_of), key.split(keys_of), value.split(keys_of), strict=True
        ):
            q, k, v = (part.unflatten(0, (count, -1)).transpose(1, 2) for part in parts)
            outputs.append(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1))
        return torch.cat(outputs)

    def _are_short(self, groups: list[SegmentGroup]) -> bool:
        return all(num_queries * num_keys <= self.longest_written_out**2 for _, num_queries, num_keys in groups)


def _equal_neighbours(run: SegmentRun) -> Iterator[SegmentGroup]:
    """Segments of (7, 7), (7, 7), (5, 9) queries and keys -> (2, 7, 7), (1, 5, 9)."""
    for (num_queries, num_keys), equal in groupby(zip(run.query_lengths, run.key_lengths, strict=True)):
        yield len(list(equal)), num_queries, num_keys
