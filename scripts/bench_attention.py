"""Fused against written-out attention on the CPU, forward and backward: the ratio of their times by clip length.

python scripts/bench_attention.py [--threads 1] [--rounds 7]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from hh_train.model.attention import written_out_attention

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def fused_attention(query: Tensor, key: Tensor, value: Tensor, groups: list[tuple[int, int, int]]) -> Tensor:
    ((count, _, _),) = groups
    split = (x.unflatten(0, (count, -1)).transpose(1, 2) for x in (query, key, value))
    return scaled_dot_product_attention(*split).transpose(1, 2).flatten(0, 1)


def seconds(attend: Attention, query: Tensor, key: Tensor, value: Tensor) -> float:
    """One forward and backward pass."""
    start = time.perf_counter()
    attend(query, key, value).sum().backward()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("dtype      clips  length  fused / written out")
    for dtype in (torch.bfloat16, torch.float32):
        for num_clips, length in ((16, 48), (12, 165), (4, 512), (2, 1024)):
            q, k, v = (torch.randn(num_clips * length, 4, 64, dtype=dtype).requires_grad_() for _ in range(3))
            fused, written_out = (
                partial(attend, groups=[(num_clips, length, length)])
                for attend in (fused_attention, written_out_attention)
            )
            ratios = [seconds(fused, q, k, v) / seconds(written_out, q, k, v) for _ in range(arguments.rounds)]
            name = str(dtype).removeprefix("torch.")
            print(f"{name:9}  {num_clips:5}  {length:6}  {statistics.median(ratios):.2f}", flush=True)


if __name__ == "__main__":
    main()
