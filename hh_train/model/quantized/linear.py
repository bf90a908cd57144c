"""Linear layers with frozen weights in fewer bits, in the place of `ModalityLinear`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hh_train.model.modality import ModalityLinear
from hh_train.model.quantized.formats import Parts, WeightFormat

ROWS_AT_ONCE = 1024
"""Encoded in one go: what is held in fp32 on the way."""


class FrozenLinear(nn.Module):
    """y = x W^T with W decoded when it is used, forward and backward: gradients reach x, and no decoded weight is kept.

    The encoded weights are parameters without gradients, named by the parts of the format, with the rows of all experts
    on their first dimension.

    Args:
        weight_format: how they are encoded.
        parts: the encoded weights.
        num_experts: 1, or one for each modality, whose tokens stand grouped.
        in_features: columns of the weights.
        compute_dtype: of the products.
    """

    def __init__(
        self,
        *,
        weight_format: WeightFormat,
        parts: Parts,
        num_experts: int,
        in_features: int,
        compute_dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.weight_format = weight_format
        self.num_experts = num_experts
        self.in_features = in_features
        self.compute_dtype = compute_dtype
        self.is_offloaded = False
        self.names = tuple(parts)
        for name, part in parts.items():
            self.register_parameter(name, nn.Parameter(part, requires_grad=False))

    @classmethod
    def of(cls, linear: ModalityLinear, weight_format: WeightFormat) -> FrozenLinear:
        """Encodes the weights of a layer, where they are."""
        weight = linear.weight.detach()
        return cls(
            weight_format=weight_format,
            parts=(
                weight_format.encode(weight)
                if weight.is_meta
                else encoded_by_rows(weight_format, weight.shape[0], weight.__getitem__)
            ),
            num_experts=linear.num_experts,
            in_features=weight.shape[1],
            compute_dtype=linear.compute_dtype,
        )

    @property
    def parts(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in self.names}

    @property
    def out_features(self) -> int:
        """Of each expert."""
        return int(getattr(self, self.names[0]).shape[0]) // self.num_experts

    @property
    def weight(self) -> Float[Tensor, "rows in"]:
        """All experts' weights decoded to fp32, anew at each call."""
        return self.weight_format.decode(self.parts, columns=self.in_features, dtype=torch.float32)

    def forward(self, x: Float[Tensor, "N in"], counts: tuple[int, int, int]) -> Float[Tensor, "N out"]:
        x = x.to(self.compute_dtype)
        if not (x.requires_grad and torch.is_grad_enabled()):
            return self.products(x, self._parts_at(x.device), counts)
        product: Tensor = _FrozenProducts.apply(x, self, counts, *self.parts.values())  # type: ignore[no-untyped-call]
        return product

    def products(self, x: Tensor, parts: Parts, counts: tuple[int, int, int]) -> Tensor:
        """Each modality's tokens times its expert, which is decoded alone."""
        return self._each(x, parts, counts, F.linear)

    def transposed_products(self, gradient: Tensor, parts: Parts, counts: tuple[int, int, int]) -> Tensor:
        """The gradient of x from that of y."""
        return self._each(gradient, parts, counts, torch.mm)

    def offload(self) -> None:
        """Keeps the encoded weights in the CPU's memory from now on; each use copies them to where x is."""
        self.is_offloaded = True
        for parameter in self.parameters():
            on_cpu = parameter.data.cpu()
            parameter.data = on_cpu.pin_memory() if torch.cuda.is_available() else on_cpu

    def extra_repr(self) -> str:
        kept = f", experts={self.num_experts}, {self.weight_format.name}"
        return f"in_features={self.in_features}, out_features={self.out_features}{kept}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenLinear:
        """What moves or casts the model leaves offloaded weights where they are."""
        if not self.is_offloaded:
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _each(
        self, x: Tensor, parts: Parts, counts: tuple[int, int, int], product: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        if self.num_experts == 1:
            return product(x, self._decoded(parts))
        experts = zip(*(part.chunk(self.num_experts) for part in parts.values()), strict=True)
        tokens = zip(x.split(counts), experts, strict=True)
        return torch.cat([product(own, self._decoded(dict(zip(parts, expert, strict=True)))) for own, expert in tokens])

    def _decoded(self, parts: Parts) -> Tensor:
        return self.weight_format.decode(parts, columns=self.in_features, dtype=self.compute_dtype)

    def _parts_at(self, device: torch.device) -> dict[str, Tensor]:
        return {name: part.to(device, non_blocking=True) for name, part in self.parts.items()}


@torch.library.custom_op("hh_train::copied_after", mutates_args=(), schema="(Tensor part, Tensor gradient) -> Tensor")
def copied_after(part: Tensor, gradient: Tensor) -> Tensor:  # noqa: ARG001
    """A copy that the compiler cannot see through: finding that both passes decode the same, it would keep the decoded
    weights from the one to the other.
    """
    return part.clone()


@copied_after.register_fake
def _(part: Tensor, gradient: Tensor) -> Tensor:  # noqa: ARG001
    return torch.empty_like(part)


class _FrozenProducts(torch.autograd.Function):
    """Keeps nothing but the encoded weights, which are there anyway, and decodes them again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FrozenLinear, counts: tuple[int, int, int], *parts: Tensor) -> Tensor:
        ctx.layer, ctx.counts = layer, counts
        ctx.save_for_backward(*parts)
        return layer.products(x, _placed(layer, parts, x.device), counts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        parts = _placed(ctx.layer, ctx.saved_tensors, gradient.device)
        codes = ctx.layer.names[0]
        if torch.compiler.is_compiling() and parts[codes].dtype != ctx.layer.compute_dtype:
            parts[codes] = copied_after(parts[codes], gradient)
        of_x = ctx.layer.transposed_products(gradient, parts, ctx.counts)
        return (of_x, None, None, *(None for _ in parts))


def _placed(layer: FrozenLinear, parts: tuple[Tensor, ...], device: torch.device) -> dict[str, Tensor]:
    return {name: part.to(device, non_blocking=True) for name, part in zip(layer.names, parts, strict=True)}


def encoded_by_rows(
    weight_format: WeightFormat, num_rows: int, read: Callable[[slice], Tensor]
) -> Mapping[str, Tensor]:
    """The parts of a matrix that is read, and encoded, some rows at a time."""
    pieces = [
        weight_format.encode(read(slice(start, min(start + ROWS_AT_ONCE, num_rows))))
        for start in range(0, num_rows, ROWS_AT_ONCE)
    ]
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
