"""Experts by modality."""

from __future__ import annotations

import torch

from hh_train.model.modality import ModalityLinear, ModalityRMSNorm

COUNTS = (2, 0, 3)


def test_each_modality_meets_its_own_expert() -> None:
    linear = ModalityLinear(in_features=4, out_features=6, per_modality=True, compute_dtype=torch.float32)
    torch.nn.init.normal_(linear.weight)
    x = torch.randn(5, 4)
    video, _, text = linear.weight.chunk(3)
    torch.testing.assert_close(linear(x, COUNTS), torch.cat([x[:2] @ video.T, x[2:] @ text.T]))


def test_norm_by_its_formula() -> None:
    norm = ModalityRMSNorm(size=4, per_modality=True)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(5, 4) * 10
    weight = torch.stack([norm.weight[:4]] * 2 + [norm.weight[8:]] * 3)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (1 + weight)
    torch.testing.assert_close(norm(x, COUNTS), expected)


def test_norm_keeps_fp32_for_low_precision_input() -> None:
    assert ModalityRMSNorm(size=4, per_modality=False)(torch.ones(2, 4).bfloat16(), (2, 0, 0)).dtype == torch.float32
