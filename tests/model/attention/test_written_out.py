"""Written-out scores against softmax attention segment by segment, in fp64, and their gradient against differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hh_train.model.attention.written_out import written_out_attention

GROUPS = [(2, 3, 3), (1, 4, 6), (1, 1, 2)]
NUM_QUERIES, NUM_KEYS = 11, 14


def drawn(heads: int, key_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    query = torch.randn(NUM_QUERIES, heads, 4, dtype=torch.float64)
    key, value = (torch.randn(NUM_KEYS, key_heads, 4, dtype=torch.float64) for _ in range(2))
    return query.requires_grad_(), key.requires_grad_(), value.requires_grad_()


@pytest.mark.parametrize(("heads", "key_heads"), [(2, 2), (4, 2), (3, 1)])
def test_segments_see_their_own_keys(heads: int, key_heads: int) -> None:
    query, key, value = drawn(heads, key_heads)
    output = written_out_attention(query, key, value, GROUPS)
    repeats = heads // key_heads
    query_lengths, key_lengths = [3, 3, 4, 1], [3, 3, 6, 2]
    segments = zip(query.split(query_lengths), key.split(key_lengths), value.split(key_lengths), strict=True)
    expected = []
    for q, k, v in segments:
        weights = (torch.einsum("ihd,jhd->hij", q, k.repeat_interleave(repeats, 1)) / 4**0.5).softmax(-1)
        expected.append(torch.einsum("hij,jhd->ihd", weights, v.repeat_interleave(repeats, 1)))
    torch.testing.assert_close(output, torch.cat(expected))


@pytest.mark.parametrize(("heads", "key_heads"), [(2, 2), (4, 2), (3, 1)])
def test_gradient(heads: int, key_heads: int) -> None:
    assert torch.autograd.gradcheck(lambda *x: written_out_attention(*x, GROUPS), drawn(heads, key_heads))
