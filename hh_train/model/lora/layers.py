"""Adapters of one matrix product, and the product with its adapters around it.

Of the frozen product nothing is used but its forward pass, so that its weights may lie in any format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hh_train.model.lora.switch import AdapterSwitch
from hh_train.model.lora.targets import Cell, MatrixShape, RankScale, num_rows

IDENTITY_ROWS = 1024
"""Rows of the identity that are sent through a product at a time, to read its weights."""
Counts = tuple[int, int, int]


FrozenProduct = Callable[[Tensor, Counts], Tensor]
"""A matrix product of tokens grouped by modality, like `ModalityLinear`."""


class LowRankPair(nn.Module):
    """The change up down of one block, scaled by alpha / rank, and for DoRA the lengths of its rows."""

    def __init__(self, *, rows: slice, columns: int, scale: RankScale, decomposed: bool) -> None:
        super().__init__()
        self.rows, self.rank, self.alpha = rows, scale.rank, scale.alpha
        self.down = nn.Parameter(torch.empty(scale.rank, columns))
        self.up = nn.Parameter(torch.empty(num_rows(rows), scale.rank))
        self.magnitude = nn.Parameter(torch.empty(num_rows(rows))) if decomposed else None

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


class LinearAdapter(nn.Module):
    """The change of one matrix product: a low-rank pair for every adapted part of every adapted expert.

    An expert's pairs are computed as one: their first factors stacked, their second ones each in its own rows.
    """

    base_norm: Tensor | None

    def __init__(
        self,
        *,
        shape: MatrixShape,
        cells: Mapping[Cell, RankScale],
        rows: Mapping[Cell, slice],
        compute_dtype: torch.dtype,
        decomposed: bool,
    ) -> None:
        super().__init__()
        self.shape, self.compute_dtype, self.decomposed = shape, compute_dtype, decomposed
        self.cells = dict(cells)
        self.pairs = nn.ModuleDict(
            {
                cell.key: LowRankPair(rows=rows[cell], columns=shape.columns, scale=scale, decomposed=decomposed)
                for cell, scale in cells.items()
            }
        )
        experts = ("shared",) if shape.num_experts == 1 else ("video", "audio", "text")
        self._keys = tuple(tuple(cell.key for cell in cells if cell.expert == expert) for expert in experts)
        self.register_buffer("base_norm", torch.empty(shape.num_experts * shape.rows) if decomposed else None)

    def pair(self, cell: Cell) -> LowRankPair:
        return cast(LowRankPair, self.pairs[cell.key])

    def factors(self, expert: int) -> tuple[Float[Tensor, "R in"], Float[Tensor, "out R"]]:
        """All pairs of an expert as one, scales included."""
        pairs = [cast(LowRankPair, self.pairs[key]) for key in self._keys[expert]]
        if len(pairs) == 1 and pairs[0].up.shape[0] == self.shape.rows:
            return pairs[0].down, pairs[0].scale * pairs[0].up
        down = torch.cat([pair.down for pair in pairs])
        blocks, column = [], 0
        for pair in pairs:
            right = down.shape[0] - column - pair.rank
            blocks.append((pair.rows, F.pad(pair.scale * pair.up, (column, right))))
            column += pair.rank
        return down, with_rows(down.new_zeros(self.shape.rows, down.shape[0]), blocks)

    def forward(
        self, x: Float[Tensor, "N in"], output: Float[Tensor, "N out"], base: FrozenProduct, counts: Counts
    ) -> Float[Tensor, "N out"]:
        """What is added to the base's output for x."""
        parts = (x,) if self.shape.num_experts == 1 else x.split(counts)
        outputs = (output,) if self.shape.num_experts == 1 else output.split(counts)
        gains = self.gains(base) if self.decomposed else None
        changes = []
        for expert, part in enumerate(parts):
            if not self._keys[expert]:
                changes.append(part.new_zeros(part.shape[0], self.shape.rows))
                continue
            down, up = (factor.to(self.compute_dtype) for factor in self.factors(expert))
            change = F.linear(F.linear(part, down), up)
            if gains is not None:
                gain = gains[expert]
                change = (gain - 1).to(change.dtype) * outputs[expert] + gain.to(change.dtype) * change
            changes.append(change)
        return changes[0] if len(changes) == 1 else torch.cat(changes)

    def gains(self, base: FrozenProduct) -> list[Float[Tensor, " out"]]:
        """For DoRA: by what each expert's rows, changed in direction, are multiplied: 1 where nothing is adapted.

        The lengths that are divided by count as constants (section 4.3 of the paper).
        """
        norms = self.changed_norms(base)
        gains = []
        for keys, norm in zip(self._keys, norms, strict=True):
            pairs = [cast(LowRankPair, self.pairs[key]) for key in keys]
            learned = [(pair.rows, cast(Tensor, pair.magnitude)) for pair in pairs]
            gains.append(with_rows(norm, learned) / norm)
        return gains

    @torch.no_grad()
    def changed_norms(self, base: FrozenProduct) -> list[Float[Tensor, " out"]]:
        """Lengths of each expert's rows W + up down, from those of W and from W down^T, which is a forward pass."""
        base_norms = cast(Tensor, self.base_norm).chunk(self.shape.num_experts)
        factors = [self.factors(expert) if keys else None for expert, keys in enumerate(self._keys)]
        ranks = [0 if factor is None else factor[0].shape[0] for factor in factors]
        stacked = torch.cat([factor[0] for factor in factors if factor is not None])
        padded = (*ranks, 0, 0, 0)[:3]
        seen = base(stacked.to(self.compute_dtype), (padded[0], padded[1], padded[2])).float().split(ranks)
        norms = []
        for norm, factor, products in zip(base_norms, factors, seen, strict=True):
            if factor is None:
                norms.append(norm)
                continue
            down, up = (part.float() for part in factor)
            square = norm.square() + 2 * (up * products.T).sum(1) + ((up @ (down @ down.T)) * up).sum(1)
            norms.append(square.clamp(min=0).sqrt().clamp(min=torch.finfo(torch.float32).tiny))
        return norms

    @torch.no_grad()
    def measure_base(self, base: FrozenProduct) -> None:
        """For DoRA: reads the lengths of the base's rows."""
        device = cast(Tensor, self.base_norm).device
        rows = []
        for expert in range(self.shape.num_experts):
            square = torch.zeros(self.shape.rows, device=device)
            for start in range(0, self.shape.columns, IDENTITY_ROWS):
                size = min(IDENTITY_ROWS, self.shape.columns - start)
                ones = torch.zeros(size, self.shape.columns, device=device, dtype=self.compute_dtype)
                ones[torch.arange(size), start + torch.arange(size)] = 1
                counts = (size, 0, 0) if expert == 0 else (0, size, 0) if expert == 1 else (0, 0, size)
                square += base(ones, counts).float().square().sum(0)
            rows.append(square.sqrt())
        cast(Tensor, self.base_norm).copy_(torch.cat(rows))

    @torch.no_grad()
    def change(self, weight: Float[Tensor, "rows in"]) -> Float[Tensor, "rows in"]:
        """Of the base's stacked weights, in fp32."""
        changes = []
        for keys, expert, base in zip(
            self._keys, range(self.shape.num_experts), weight.float().chunk(self.shape.num_experts), strict=True
        ):
            if not keys:
                changes.append(torch.zeros_like(base))
                continue
            down, up = (factor.float() for factor in self.factors(expert))
            change = up @ down
            if self.decomposed:
                changed = base + change
                gain = torch.ones(self.shape.rows, device=base.device)
                norm = changed.norm(dim=1)
                for pair in (cast(LowRankPair, self.pairs[key]) for key in keys):
                    gain[pair.rows] = cast(Tensor, pair.magnitude).float() / norm[pair.rows]
                change = gain[:, None] * changed - base
            changes.append(change)
        return torch.cat(changes)


def with_rows(given: Float[Tensor, "rows ..."], blocks: Sequence[tuple[slice, Tensor]]) -> Float[Tensor, "rows ..."]:
    """The tensor with blocks in the place of some of its rows: adjacent ones, or every other one."""
    if any(rows.step == 2 for rows, _ in blocks):
        halves = [given[0::2], given[1::2]]
        for rows, block in blocks:
            halves[rows.start] = block
        return torch.stack(halves, dim=1).flatten(0, 1)
    pieces, end = [], 0
    for rows, block in sorted(blocks, key=lambda place: place[0].start):
        pieces += [given[end : rows.start], block]
        end = rows.stop
    return torch.cat([*pieces, given[end:]])


class AdaptedLinear(nn.Module):
    """A frozen matrix product and its adapters, of which the switch says which are at work."""

    def __init__(self, base: nn.Module, *, compute_dtype: torch.dtype, switch: AdapterSwitch) -> None:
        super().__init__()
        self.base = base
        self.adapters = nn.ModuleDict()
        self.compute_dtype = compute_dtype
        self.switch = switch

    def forward(self, x: Float[Tensor, "N in"], counts: Counts) -> Float[Tensor, "N out"]:
        x = x.to(self.compute_dtype)
        output: Tensor = self.base(x, counts)
        adapted = output
        for name, weight in self.switch.weights.items():
            if name in self.adapters:
                change: Tensor = self.adapters[name](x, output, self.base, counts)
                adapted = adapted + (change if weight == 1 else weight * change)
        return adapted
