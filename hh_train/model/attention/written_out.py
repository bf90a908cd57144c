"""Softmax attention with its scores written out in bf16: on CPUs the fused kernels take longer for short clips.

The softmax is computed in fp32 and rounded. What is kept for the backward pass beside the inputs is its result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

SegmentGroup = tuple[int, int, int]
"""How many neighboring segments have equal sizes, and their numbers of queries and keys."""


def written_out_attention(
    query: Float[Tensor, "Q Hq D"],
    key: Float[Tensor, "K Hk D"],
    value: Float[Tensor, "K Hk D"],
    groups: Sequence[SegmentGroup],
) -> Float[Tensor, "Q Hq D"]:
    """Attention of segments that lie one after another; heads that share a key-value head go through one product."""
    attended: Tensor = _WrittenOut.apply(query, key, value, groups)  # type: ignore[no-untyped-call]
    return attended


class _WrittenOut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, groups: Sequence[SegmentGroup]) -> Tensor:
        ctx.groups, ctx.scale = groups, query.shape[-1] ** -0.5
        output, kept = torch.empty_like(query), []
        for (count, _, _), q, out, k, v in _by_group(groups, (query, output), (key, value)):
            weights = _product(_folded(q, k, count), _folded(k, k, count).mT, ctx.scale).softmax(-1)
            _unfold(torch.bmm(weights, _folded(v, k, count)), out, count)
            kept.append(weights)
        ctx.save_for_backward(query, key, value, *kept)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, *kept = ctx.saved_tensors
        of_query, of_key, of_value = (torch.empty_like(x) for x in (query, key, value))
        parts = _by_group(ctx.groups, (query, gradient, of_query), (key, value, of_key, of_value))
        for weights, ((count, _, _), q, g, of_q, k, v, of_k, of_v) in zip(kept, parts, strict=True):
            folded = _folded(g, k, count)
            _unfold(torch.bmm(weights.mT, folded), of_v, count)
            of_weights = torch.bmm(folded, _folded(v, k, count).mT)
            of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            _unfold(_product(of_scores.mT, _folded(q, k, count), ctx.scale), of_k, count)
            _unfold(_product(of_scores, _folded(k, k, count), ctx.scale), of_q, count)
        return of_query, of_key, of_value, None


def _by_group(
    groups: Sequence[SegmentGroup], with_queries: tuple[Tensor, ...], with_keys: tuple[Tensor, ...]
) -> Iterator[tuple[Any, ...]]:
    """Each group, then its rows of the tensors that go with queries and of those that go with keys."""
    query_start = key_start = 0
    for group in groups:
        count, num_queries, num_keys = group
        queries = slice(query_start, query_start + count * num_queries)
        keys = slice(key_start, key_start + count * num_keys)
        yield group, *(x[queries] for x in with_queries), *(x[keys] for x in with_keys)
        query_start, key_start = queries.stop, keys.stop


def _product(first: Tensor, second: Tensor, scale: float) -> Tensor:
    """`scale` times the product, in one pass."""
    return torch.baddbmm(first.new_empty(1), first, second, beta=0, alpha=scale)


def _folded(x: Tensor, key: Tensor, count: int) -> Tensor:
    """[count L, heads, D] -> [count key heads, repeats L, D]: query heads of the same key-value head one after another,
    as if they were further queries.
    """
    num_heads, width = key.shape[1:]
    split = x.view(count, x.shape[0] // count, num_heads, -1, width)
    return split.permute(0, 2, 3, 1, 4).reshape(count * num_heads, -1, width)


def _unfold(folded: Tensor, into: Tensor, count: int) -> None:
    """Writes rows folded by `_folded` where they come from."""
    num_heads, width = folded.shape[0] // count, folded.shape[2]
    target = into.view(count, into.shape[0] // count, num_heads, -1, width)
    target.copy_(folded.view(count, num_heads, target.shape[3], target.shape[1], width).permute(0, 3, 1, 2, 4))
