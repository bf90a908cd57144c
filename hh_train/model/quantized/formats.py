"""How frozen weights are kept: in fewer bits, each row by itself, so that rows may be cut, sharded and read alone.

Every format turns a matrix [R C] into tensors of R rows, its parts, and these back into a matrix.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Parts = Mapping[str, Tensor]
FLOAT8 = torch.float8_e4m3fn
INT8_MAX, UINT8_MAX = 127, 255
NUM_LEVELS = 16
"""Of 4 bits."""
SMALLEST = 2.0**-100
"""Scale of rows and blocks of zeros."""


class WeightFormat(ABC):
    """Encodes and decodes matrices. Also on the meta device, where only shapes and types come out."""

    name: str
    """As in configs/quantization."""

    @abstractmethod
    def encode(self, weight: Float[Tensor, "R C"]) -> dict[str, Tensor]:
        """The parts, by name."""

    @abstractmethod
    def decode(self, parts: Parts, *, columns: int, dtype: torch.dtype) -> Float[Tensor, "R C"]:
        """The matrix, as far as the format kept it."""

    def num_bytes(self, rows: int, columns: int) -> int:
        """Of an encoded matrix."""
        parts = self.encode(torch.empty(rows, columns, device="meta"))
        return sum(part.nbytes for part in parts.values())


@dataclass(frozen=True, kw_only=True)
class PlainFormat(WeightFormat):
    """Floating point numbers without scales."""

    dtype: Literal["float32", "bfloat16"] = "bfloat16"

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.dtype

    def encode(self, weight: Float[Tensor, "R C"]) -> dict[str, Tensor]:
        return {"values": weight.to(getattr(torch, self.dtype), copy=True)}

    def decode(self, parts: Parts, *, columns: int, dtype: torch.dtype) -> Float[Tensor, "R C"]:  # noqa: ARG002
        return parts["values"].to(dtype)


@dataclass(frozen=True)
class Float8Format(WeightFormat):
    """8-bit floating point numbers (e4m3: 3 bits of mantissa) and a scale for each row.

    Their bits are kept as integers, since gloo sends no such numbers between processes.
    """

    name = "float8"

    def encode(self, weight: Float[Tensor, "R C"]) -> dict[str, Tensor]:
        weight = weight.float()
        scales = weight.abs().amax(1).div(torch.finfo(FLOAT8).max).clamp(min=SMALLEST)
        return {"codes": (weight / scales[:, None]).to(FLOAT8).view(torch.uint8), "scales": scales}

    def decode(self, parts: Parts, *, columns: int, dtype: torch.dtype) -> Float[Tensor, "R C"]:  # noqa: ARG002
        return _scaled(parts["codes"].view(FLOAT8).to(dtype), parts["scales"][:, None])


@dataclass(frozen=True)
class Int8Format(WeightFormat):
    """255 even steps from minus to plus the largest number of each row."""

    name = "int8"

    def encode(self, weight: Float[Tensor, "R C"]) -> dict[str, Tensor]:
        weight = weight.float()
        scales = weight.abs().amax(1).div(INT8_MAX).clamp(min=SMALLEST)
        return {"codes": (weight / scales[:, None]).round().to(torch.int8), "scales": scales}

    def decode(self, parts: Parts, *, columns: int, dtype: torch.dtype) -> Float[Tensor, "R C"]:  # noqa: ARG002
        return _scaled(parts["codes"].to(dtype), parts["scales"][:, None])


@dataclass(frozen=True, kw_only=True)
class NF4Format(WeightFormat):
    """16 levels at quantiles of a normal distribution, scaled to each block of a row (arXiv:2305.14314).

    Args:
        block_size: neighbors in a row under one scale; the last block of a row may be filled up with zeros. Even.
        double_quantization: keeps scales in 8 bits, with one in fp32 for each row: 4.1 bits a weight instead of 4.5.

    Raises ValueError for a block size that is odd or below 2.
    """

    name = "nf4"
    block_size: int = 64
    double_quantization: bool = True

    def __post_init__(self) -> None:
        if self.block_size < 2 or self.block_size % 2:
            raise ValueError(f"got block_size {self.block_size}; wanted an even number, two codes to a byte")

    def encode(self, weight: Float[Tensor, "R C"]) -> dict[str, Tensor]:
        filled = F.pad(weight.float(), (0, -weight.shape[1] % self.block_size))
        blocks = filled.unflatten(1, (-1, self.block_size))
        scales = {"scales": blocks.abs().amax(2).clamp(min=SMALLEST)}
        if self.double_quantization:
            scales = self._encode_scales(scales["scales"])
        levels = normal_levels(weight.device)
        # the scale as it will be decoded, so that its rounding is made good where levels allow
        relative = blocks / self._decode_scales(scales)[..., None].clamp(min=SMALLEST)
        nearest = torch.bucketize(relative, (levels[1:] + levels[:-1]) / 2, out_int32=True)
        high, low = nearest.flatten(1).to(torch.uint8).unflatten(1, (-1, 2)).unbind(2)
        return {"codes": high * NUM_LEVELS + low, **scales}

    def decode(self, parts: Parts, *, columns: int, dtype: torch.dtype) -> Float[Tensor, "R C"]:
        levels = normal_levels(parts["codes"].device).to(dtype)
        square = (NUM_LEVELS, NUM_LEVELS)
        pairs = torch.stack([levels[:, None].expand(square), levels[None].expand(square)], dim=2).view(-1, 2)
        values = F.embedding(parts["codes"].int(), pairs).flatten(1).unflatten(1, (-1, self.block_size))
        matrix = _scaled(values, self._decode_scales(parts)[..., None]).flatten(1)
        return matrix[:, :columns]

    def _encode_scales(self, scales: Float[Tensor, "R B"]) -> dict[str, Tensor]:
        of_rows = scales.amax(1) / UINT8_MAX
        return {"scales": (scales / of_rows[:, None]).round().to(torch.uint8), "row_scales": of_rows}

    def _decode_scales(self, parts: Parts) -> Float[Tensor, "R B"]:
        if not self.double_quantization:
            return parts["scales"]
        return parts["scales"] * parts["row_scales"][:, None]


def normal_levels(device: torch.device) -> Float[Tensor, " levels"]:
    """The levels of NF4 from -1 to 1: 7 below zero, zero, 8 above, at evenly spaced probabilities of each side.

    Computed where they are needed: copying them to a device would wait for it.
    """
    outermost = 1 - (1 / 32 + 1 / 30) / 2
    side = torch.arange(NUM_LEVELS, device=device) - (NUM_LEVELS // 2 - 1)
    share = side.abs() / torch.where(side < 0, NUM_LEVELS // 2 - 1, NUM_LEVELS // 2)
    quantiles = torch.special.ndtri(0.5 + (outermost - 0.5) * share)
    levels: Tensor = side.sign() * quantiles / quantiles[-1]
    return levels


def _scaled(values: Tensor, scales: Tensor) -> Tensor:
    """In place, since `values` is new: one rounding, and no copy in the scales' type."""
    return values.mul_(scales)
