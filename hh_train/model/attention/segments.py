"""Any pattern by a kernel without masks: keys are gathered run by run, so that little of them is held at once.

With gradients, local attention keeps queries, keys and values alone; the backward pass gathers again and recomputes
each run. Gradients of keys, to which many frames contribute, add up in fp32.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from hh_train.model.attention.pattern import AttentionPattern, SegmentRun

MAX_GATHERED_KEYS = 131_072
"""Keys in one call of local attention: half a GiB of keys and values in bf16 with 8 heads of 128."""


@runtime_checkable
class SegmentKernel(Protocol):
    """Attention of each segment's queries to the segment's keys, which `SegmentRun.gather_keys` has laid out."""

    def __call__(
        self,
        query: Float[Tensor, "Q Hq D"],
        key: Float[Tensor, "K Hk D"],
        value: Float[Tensor, "K Hk D"],
        run: SegmentRun,
    ) -> Float[Tensor, "Q Hq D"]: ...


def attend_by_segments(
    kernel: SegmentKernel,
    query: Float[Tensor, "N Hq D"],
    key: Float[Tensor, "N Hk D"],
    value: Float[Tensor, "N Hk D"],
    pattern: AttentionPattern,
    *,
    max_gathered_keys: int = MAX_GATHERED_KEYS,
) -> Float[Tensor, "N Hq D"]:
    """Attention along the pattern. Full attention is one call of the kernel, on the tensors as they are."""
    runs = pattern.runs(max_gathered_keys)
    if not runs:
        return torch.empty_like(query)
    if not pattern.is_local:
        return kernel(query, key, value, runs[0])
    if torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value)):
        attended: Tensor = _Recomputed.apply(query, key, value, kernel, runs)  # type: ignore[no-untyped-call]
        return attended
    return _run_by_run(kernel, query, key, value, runs)


def _run_by_run(
    kernel: SegmentKernel, query: Tensor, key: Tensor, value: Tensor, runs: tuple[SegmentRun, ...]
) -> Tensor:
    output = torch.empty_like(query)
    for run in runs:
        start, end = run.queries
        output[start:end] = kernel(query[start:end], run.gather_keys(key), run.gather_keys(value), run)
    return output


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, kernel: SegmentKernel, runs: tuple[SegmentRun, ...]
    ) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.kernel, ctx.runs = kernel, runs
        return _run_by_run(kernel, query, key, value, runs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        of_query = torch.empty_like(query)
        of_key, of_value = (
            torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32)) for x in (key, value)
        )
        for run in ctx.runs:
            start, end = run.queries
            inputs = query[start:end], run.gather_keys(key), run.gather_keys(value)
            inputs = tuple(x.detach().requires_grad_() for x in inputs)
            with torch.enable_grad():
                output = ctx.kernel(*inputs, run)
            of_query[start:end], of_gathered_key, of_gathered_value = torch.autograd.grad(
                output, inputs, gradient[start:end]
            )
            run.add_key_gradients(of_key, of_gathered_key)
            run.add_key_gradients(of_value, of_gathered_value)
        return of_query, of_key.to(key.dtype), of_value.to(value.dtype), None, None
