"""Formats of frozen weights: errors no larger than their steps, bytes as promised, rows by themselves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hh_train.model.quantized.formats import (
    Float8Format,
    Int8Format,
    NF4Format,
    PlainFormat,
    WeightFormat,
    normal_levels,
)

FORMATS = [PlainFormat(), Float8Format(), Int8Format(), NF4Format(), NF4Format(double_quantization=False)]
NAMES = ["bfloat16", "float8", "int8", "nf4", "nf4, plain scales"]
COLUMNS = 200  # no whole number of blocks

PUBLISHED_LEVELS = (
    -1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0,
    0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0,
)  # fmt: skip
"""Of NF4: appendix E of arXiv:2305.14314."""


def weights() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    spread = torch.logspace(-4, 2, 64)[:, None]
    return torch.randn(64, COLUMNS, generator=generator) * spread


def decoded(weight_format: WeightFormat, weight: Tensor) -> Tensor:
    return weight_format.decode(weight_format.encode(weight), columns=weight.shape[1], dtype=torch.float32)


def test_levels_are_the_published_ones() -> None:
    torch.testing.assert_close(normal_levels(torch.device("cpu")), torch.tensor(PUBLISHED_LEVELS), atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("weight_format", "error"),
    list(zip(FORMATS, [0.0017, 0.027, 0.008, 0.095, 0.095], strict=True)),
    ids=NAMES,
)
def test_error_of_normal_weights(weight_format: WeightFormat, error: float) -> None:
    """Root mean square, of the weights' own spread; rows of very different size alike."""
    weight = weights()
    found = (decoded(weight_format, weight) - weight).square().mean(1).sqrt() / weight.std(1)
    assert found.max() < 1.35 * error
    assert found.mean() > error / 2  # and no better: the numbers are indeed in so few bits


def test_no_number_is_further_off_than_half_a_step() -> None:
    weight = weights()
    largest = weight.abs().amax(1, keepdim=True)
    assert ((decoded(Int8Format(), weight) - weight).abs() <= largest / 127 / 2 * 1.0001).all()
    in_float8 = (decoded(Float8Format(), weight) - weight).abs()
    assert (in_float8 <= torch.maximum(weight.abs() * 2**-4, largest / 448 * 2**-10) * 1.0001).all()


def test_blocks_of_nf4_by_hand() -> None:
    """The nearest level times the largest of each block, in blocks of a row."""
    weight = torch.tensor([[2.0, 0.5, -1.0, 0.0, 0.01, -0.02, 0.0]])
    levels = PUBLISHED_LEVELS
    nf4 = NF4Format(block_size=4, double_quantization=False)
    parts = nf4.encode(weight)
    assert parts["scales"].tolist() == [[2.0, pytest.approx(0.02)]]
    expected = [[2.0, 2 * levels[10], 2 * levels[2], 0.0, 0.02 * levels[12], -0.02, 0.0]]
    torch.testing.assert_close(decoded(nf4, weight), torch.tensor(expected), atol=1e-5, rtol=0)


def test_scales_of_scales() -> None:
    """Half a step of a 255th of the row's largest scale."""
    weight = weights()
    plain = NF4Format(double_quantization=False).encode(weight)["scales"]
    parts = NF4Format().encode(weight)
    assert (parts["scales"].dtype, parts["row_scales"].shape) == (torch.uint8, (64,))
    again = parts["scales"] * parts["row_scales"][:, None]
    assert ((again - plain).abs() <= plain.amax(1, keepdim=True) / 255 / 2 * 1.0001).all()


@pytest.mark.parametrize(
    ("weight_format", "bits"), list(zip(FORMATS, [16, 8.00625, 8.00625, 4.13125, 4.5], strict=True)), ids=NAMES
)
def test_bits_of_a_weight(weight_format: WeightFormat, bits: float) -> None:
    assert 8 * weight_format.num_bytes(30, 5120) / (30 * 5120) == pytest.approx(bits)
    parts = weight_format.encode(torch.randn(30, 5120))
    assert sum(part.nbytes for part in parts.values()) == weight_format.num_bytes(30, 5120)
    assert all(part.shape[0] == 30 for part in parts.values())


@pytest.mark.parametrize("weight_format", FORMATS, ids=NAMES)
def test_rows_stand_alone(weight_format: WeightFormat) -> None:
    weight = weights()
    parts = weight_format.encode(weight)
    some = {name: part[10:20] for name, part in parts.items()}
    whole = weight_format.decode(parts, columns=COLUMNS, dtype=torch.float32)
    assert torch.equal(weight_format.decode(some, columns=COLUMNS, dtype=torch.float32), whole[10:20])
    again = weight_format.encode(weight[10:20])
    assert all(torch.equal(again[name].float(), some[name].float()) for name in parts)


@pytest.mark.parametrize("weight_format", FORMATS, ids=NAMES)
def test_what_was_encoded_before_is_kept(weight_format: WeightFormat) -> None:
    once = decoded(weight_format, weights())
    torch.testing.assert_close(decoded(weight_format, once), once, atol=0, rtol=1e-2)


@pytest.mark.parametrize("weight_format", FORMATS, ids=NAMES)
def test_zeros_and_extremes(weight_format: WeightFormat) -> None:
    weight = torch.zeros(4, COLUMNS)
    weight[1] = 1e30
    weight[2, 5] = -3.0
    weight[3] = 1e-20
    found = decoded(weight_format, weight)
    torch.testing.assert_close(found, weight, atol=1e-25, rtol=5e-3)
    assert not found[0].any() and not found[2, 6:].any()


@pytest.mark.parametrize("weight_format", FORMATS, ids=NAMES)
def test_decoded_in_another_type(weight_format: WeightFormat) -> None:
    parts = weight_format.encode(weights())
    exact, rounded = (
        weight_format.decode(parts, columns=COLUMNS, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=2**-7, atol=0)


@given(rows=st.integers(1, 5), columns=st.integers(1, 150), block_size=st.integers(1, 40).map(lambda n: 2 * n))
def test_any_shape(rows: int, columns: int, block_size: int) -> None:
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(columns))
    for weight_format in (NF4Format(block_size=block_size), Int8Format(), Float8Format()):
        found = decoded(weight_format, weight)
        assert found.shape == weight.shape
        assert (found - weight).abs().max() <= 0.16 * weight.abs().max()


@pytest.mark.parametrize("block_size", [0, 7, -2])
def test_odd_blocks_are_refused(block_size: int) -> None:
    with pytest.raises(ValueError, match=f"block_size {block_size}"):
        NF4Format(block_size=block_size)
