"""Attention within clips, against softmax written out in fp64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hh_train.model.attention import PerClipAttention


def reference(query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...]) -> Tensor:
    repeats = query.shape[1] // key.shape[1]
    query, key, value = (
        query.double(),
        key.double().repeat_interleave(repeats, 1),
        value.double().repeat_interleave(repeats, 1),
    )
    clip = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    scores = torch.einsum("ihd,jhd->hij", query, key) / query.shape[-1] ** 0.5
    scores = scores.masked_fill(clip[:, None] != clip[None], -torch.inf)
    return torch.einsum("hij,jhd->ihd", scores.softmax(-1), value)


@pytest.mark.parametrize("lengths", [(7,), (3, 3, 3), (4, 4, 1, 6, 6)])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_forward_and_backward(lengths: tuple[int, ...], key_heads: int) -> None:
    torch.manual_seed(0)
    query = torch.randn(sum(lengths), 4, 8, requires_grad=True)
    key, value = (torch.randn(sum(lengths), key_heads, 8, requires_grad=True) for _ in range(2))
    weight = torch.randn(sum(lengths), 4, 8)
    ours = PerClipAttention()(query, key, value, lengths)
    expected = reference(query, key, value, lengths)
    torch.testing.assert_close(ours.double(), expected, atol=1e-5, rtol=1e-5)
    gradients = torch.autograd.grad((ours * weight).sum(), (query, key, value))
    wanted = torch.autograd.grad((expected * weight).sum(), (query, key, value))
    for gradient, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient, want, atol=1e-5, rtol=1e-5)


def test_written_out_scores_in_bfloat16_are_as_near_as_the_fused_kernel() -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(12, 4, 8).bfloat16() for _ in range(3)]
    expected = reference(*tensors, (5, 5, 2))
    outputs = [PerClipAttention(longest_written_out=longest)(*tensors, (5, 5, 2)).double() for longest in (0, 1024)]
    assert max((output - expected).norm() / expected.norm() for output in outputs) < 1e-2
