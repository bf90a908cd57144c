"""Adapters as other tools see them: one low-rank change of each whole stacked matrix, and back.

The change of a matrix's parts and experts is that of one pair: first factors stacked, second ones each in its own rows
and columns, zeros elsewhere. It says the same, in more numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributed.tensor import DTensor

from hh_train.model.config import ModelConfig
from hh_train.model.lora.attach import AdapterSet, adapted_linears, adapter_set, attach_cells, fill, gathered
from hh_train.model.lora.layers import LinearAdapter
from hh_train.model.lora.targets import (
    PACKED,
    PARTS,
    Cell,
    MatrixShape,
    RankScale,
    cell_rows,
    experts_of,
    linear_name,
    matrix_shape,
)
from hh_train.model.transformer import SandwichTransformer


@dataclass(frozen=True, kw_only=True)
class MatrixChange:
    """Of one stacked matrix: up down alpha / rank.

    `magnitude` are the lengths of all rows in DoRA; `gained` are those that ComfyUI wants instead, which divides by the
    lengths of the base's rows where DoRA divides by those of the changed ones.
    """

    down: Float[Tensor, "R in"]
    up: Float[Tensor, "rows R"]
    alpha: float
    magnitude: Float[Tensor, " rows"] | None = None
    gained: Float[Tensor, " rows"] | None = None

    @property
    def rank(self) -> int:
        return self.down.shape[0]


@dataclass(frozen=True, kw_only=True)
class PairWeights:
    """The weights of one cell; DoRA's lengths in either sense, as in `MatrixChange`."""

    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Tensor | None = None
    gained: Tensor | None = None

    @property
    def scale(self) -> RankScale:
        return RankScale(self.down.shape[0], self.alpha)


@torch.no_grad()
def matrix_changes(model: SandwichTransformer, adapters: AdapterSet) -> dict[str, MatrixChange]:
    """Of an adapter of the model (or of an average of one), by the names of the matrices, on the CPU.

    Every process of a sharded model must call it.
    """
    changes = {}
    for linear, adapter in adapters.items():
        with gathered(model, linear, needed=adapter.decomposed):
            changes[linear] = _matrix_change(adapter, adapted_linears(model)[linear].base)
    return changes


def _matrix_change(adapter: LinearAdapter, base: torch.nn.Module) -> MatrixChange:
    cells = in_matrix_order(adapter.cells)
    scales = {adapter.pair(cell).scale for cell in cells}
    common = scales.pop() if len(scales) == 1 else None
    total, rows = sum(adapter.pair(cell).rank for cell in cells), adapter.shape.rows
    up, column = torch.zeros(adapter.shape.num_experts * rows, total), 0
    for cell in cells:
        pair = adapter.pair(cell)
        block = _whole(pair.up) * (1.0 if common is not None else pair.scale)
        up[_stacked(cell, pair.rows, adapter.shape), column : column + pair.rank] = block
        column += pair.rank
    down = torch.cat([_whole(adapter.pair(cell).down) for cell in cells])
    alpha = total * (1.0 if common is None else common)
    if not adapter.decomposed:
        return MatrixChange(down=down, up=up, alpha=alpha)
    base_norm = _whole(cast(Tensor, adapter.base_norm))
    gained, magnitude = torch.cat([gain.cpu() for gain in adapter.gains(base)]) * base_norm, base_norm.clone()
    for cell in cells:
        pair = adapter.pair(cell)
        magnitude[_stacked(cell, pair.rows, adapter.shape)] = _whole(cast(Tensor, pair.magnitude))
    return MatrixChange(down=down, up=up, alpha=alpha, magnitude=magnitude, gained=gained)


def split_changes(
    changes: Mapping[str, MatrixChange], layout: Mapping[Cell, RankScale], config: ModelConfig
) -> dict[Cell, PairWeights]:
    """The inverse of `matrix_changes`, for cells whose ranks and scales are known.

    Raises ValueError for a layout that is not that of these matrices.
    """
    weights = {}
    faults = [f"{linear} is in the weights, not in the layout" for linear in changes.keys() - linears_of(layout)]
    for linear in linears_of(layout):
        cells = in_matrix_order([cell for cell in layout if cell.linear == linear])
        change, total = changes.get(linear), sum(layout[cell].rank for cell in cells)
        if change is None or change.rank != total:
            faults.append(f"{linear} has rank {'none' if change is None else change.rank}, its parts have {total}")
            continue
        scales = {layout[cell].alpha / layout[cell].rank for cell in cells}
        column, shape = 0, matrix_shape(config, cells[0].layer, cells[0].matrix)
        for cell in cells:
            rank, alpha = layout[cell].rank, layout[cell].alpha
            rows = _stacked(cell, cell_rows(config, cell), shape)
            up = change.up[rows, column : column + rank]
            if len(scales) > 1:
                up = up * (rank / alpha) * (change.alpha / total) if alpha else torch.zeros_like(up)
            weights[cell] = PairWeights(
                down=change.down[column : column + rank].clone(),
                up=up.clone(),
                alpha=alpha,
                magnitude=None if change.magnitude is None else change.magnitude[rows].clone(),
                gained=None if change.gained is None else change.gained[rows].clone(),
            )
            column += rank
    if faults:
        raise ValueError("the adapter's record does not fit its weights:\n  " + "\n  ".join(faults))
    return weights


def whole_matrix_cells(layer: int, matrix: str, change: MatrixChange, config: ModelConfig) -> dict[Cell, PairWeights]:
    """Cells of a change that says nothing of parts or experts: each expert has its rows of it, and all its columns.

    A change with the rows of a single expert is meant for each.
    """
    part = matrix if matrix in PACKED else next(name for name, holder in PARTS.items() if holder == matrix)
    shape, experts = matrix_shape(config, layer, matrix), experts_of(config, layer)
    cells = {}
    for number, expert in enumerate(experts):
        start = 0 if change.up.shape[0] == shape.rows else number * shape.rows
        rows = slice(start, start + shape.rows)
        if not change.up[rows].any() and change.magnitude is None and change.gained is None:
            continue
        cells[Cell(layer, part, expert)] = PairWeights(
            down=change.down,
            up=change.up[rows],
            alpha=change.alpha,
            magnitude=None if change.magnitude is None else change.magnitude[rows],
            gained=None if change.gained is None else change.gained[rows],
        )
    return cells


def attach_weights(model: SandwichTransformer, name: str, weights: Mapping[Cell, PairWeights]) -> AdapterSet:
    """Builds an adapter of given weights in; on the meta device without them. Otherwise as `attach_adapter`."""
    decomposed = any(pair.magnitude is not None or pair.gained is not None for pair in weights.values())
    ranks = {cell: pair.scale for cell, pair in weights.items()}
    attached = attach_cells(model, name, ranks, decomposed=decomposed)
    if not any(parameter.is_meta for parameter in attached.parameters()):
        fill_adapter(model, name, weights)
    return attached


@torch.no_grad()
def fill_adapter(model: SandwichTransformer, name: str, weights: Mapping[Cell, PairWeights]) -> None:
    """Gives an adapter of these cells its weights; sharded ones too, where every process must call it."""
    for linear, adapter in adapter_set(model, name).items():
        for cell in adapter.cells:
            fill(adapter.pair(cell).down, weights[cell].down)
            fill(adapter.pair(cell).up, weights[cell].up)
        if not adapter.decomposed:
            continue
        with gathered(model, linear, needed=True):
            base = adapted_linears(model)[linear].base
            adapter.measure_base(base)
            norms = torch.cat(adapter.changed_norms(base))
        base_norms = cast(Tensor, adapter.base_norm)
        for cell in adapter.cells:
            pair, given = adapter.pair(cell), weights[cell]
            rows = _stacked(cell, pair.rows, adapter.shape)
            magnitude = norms[rows] if given.magnitude is None else given.magnitude.to(norms.device)
            if given.gained is not None:
                magnitude = given.gained.to(norms.device) / base_norms[rows] * norms[rows]
            fill(cast(Tensor, pair.magnitude), magnitude)


def in_matrix_order(cells: Mapping[Cell, RankScale] | list[Cell]) -> list[Cell]:
    """Cells of one matrix, by the expert in stacked order, then by the part."""
    order = ("shared", "video", "audio", "text")
    return sorted(cells, key=lambda cell: (order.index(cell.expert), cell.part))


def linears_of(cells: Mapping[Cell, RankScale]) -> list[str]:
    return list(dict.fromkeys(linear_name(cell.layer, cell.matrix) for cell in cells))


def _stacked(cell: Cell, rows: slice, shape: MatrixShape) -> slice:
    """An expert's rows among those of all experts."""
    offset = 0 if cell.expert == "shared" else ("video", "audio", "text").index(cell.expert) * shape.rows
    return slice(offset + rows.start, offset + rows.stop, rows.step)


def _whole(tensor: Tensor) -> Tensor:
    """In fp32 on the CPU, gathered if it is sharded."""
    gathered = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return gathered.detach().float().cpu()
