"""Experts by modality."""

from __future__ import annotations

import pytest
import torch

from hh_train.model.modality import (
    HOPPER,
    ModalityLinear,
    ModalityRMSNorm,
    grouped_is_faster,
    grouped_products,
    separate_products,
)

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


def both_products(device: str, counts: tuple[int, int, int]) -> list[tuple[torch.Tensor, ...]]:
    """Output, gradient of tokens and of experts by the grouped and by separate products."""
    torch.manual_seed(0)
    x = torch.randn(sum(counts), 16, device=device).bfloat16().requires_grad_()
    experts = torch.randn(3, 24, 16, device=device).bfloat16().requires_grad_()
    gradient = torch.randn(sum(counts), 24, device=device).bfloat16()
    results = []
    for product in (grouped_products, separate_products):
        output = product(x, experts, counts)
        results.append((output, *torch.autograd.grad(output, (x, experts), gradient)))
    return results


@pytest.mark.parametrize("counts", [(5, 2, 4), (6, 0, 3), (0, 0, 7), (3, 4, 0)])
def test_grouped_products_equal_separate_ones(counts: tuple[int, int, int]) -> None:
    for grouped, separate in zip(*both_products("cpu", counts), strict=True):
        torch.testing.assert_close(grouped, separate)


@pytest.mark.gpu
@pytest.mark.parametrize("counts", [(300, 20, 40), (300, 0, 40), (0, 0, 40)])
def test_grouped_products_equal_separate_ones_on_cuda(counts: tuple[int, int, int]) -> None:
    if torch.cuda.get_device_capability() < HOPPER:
        pytest.skip("no kernel for grouped products below compute capability 9.0")
    for grouped, separate in zip(*both_products("cuda", counts), strict=True):
        torch.testing.assert_close(grouped, separate, atol=1e-1, rtol=2e-2)


@pytest.mark.parametrize(
    ("capability", "dtype", "sizes", "is_grouped"),
    [
        ((9, 0), torch.bfloat16, (7208, 5120), True),
        ((10, 0), torch.bfloat16, (27304, 5120), True),
        ((9, 0), torch.bfloat16, (5120, 13652), False),  # 13652 elements are no whole number of 16 bytes
        ((9, 0), torch.float32, (7208, 5120), False),
        ((8, 0), torch.bfloat16, (7208, 5120), False),
        (None, torch.bfloat16, (7208, 5120), False),
    ],
)
def test_products_are_grouped_where_there_is_a_kernel(
    capability: tuple[int, int] | None, dtype: torch.dtype, sizes: tuple[int, int], is_grouped: bool
) -> None:
    assert grouped_is_faster(capability=capability, dtype=dtype, sizes=sizes) == is_grouped
