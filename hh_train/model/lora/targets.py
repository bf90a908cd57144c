"""What adapters change: parts of the layers' packed matrices, one modality's expert at a time."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from hh_train.model.config import ModelConfig
from hh_train.types import Modality

Expert = Literal["shared", "video", "audio", "text"]
MODALITY_EXPERTS: tuple[Expert, ...] = ("video", "audio", "text")
"""In the order of `Modality`, as they are stacked."""
EXPERTS: tuple[Expert, ...] = (*MODALITY_EXPERTS, "shared")

PARTS = {
    "attention.q": "attention.linear_qkv",
    "attention.k": "attention.linear_qkv",
    "attention.v": "attention.linear_qkv",
    "attention.gate": "attention.linear_qkv",
    "attention.linear_proj": "attention.linear_proj",
    "mlp.gate": "mlp.up_gate_proj",
    "mlp.up": "mlp.up_gate_proj",
    "mlp.down_proj": "mlp.down_proj",
}
"""Parts and the matrices that hold their rows."""
PACKED = ("attention.linear_qkv", "mlp.up_gate_proj")
"""Matrices of several parts, which may be adapted as one too."""
MATRICES = ("attention.linear_qkv", "attention.linear_proj", "mlp.up_gate_proj", "mlp.down_proj")
DEFAULT_PARTS = ("attention.[qkv]", "attention.linear_proj", "mlp.*")
"""All but the attention's gates, which have one row a head: few to lower the rank of."""


@dataclass(frozen=True, order=True)
class Cell:
    """One adapted block: a part of a layer, in one expert."""

    layer: int
    part: str
    expert: Expert

    @property
    def matrix(self) -> str:
        """The matrix of the layer that holds its rows."""
        return PARTS.get(self.part, self.part)

    @property
    def linear(self) -> str:
        """Name of that matrix product in the transformer."""
        return linear_name(self.layer, self.matrix)

    @property
    def key(self) -> str:
        """Its name among the cells of its matrix."""
        return f"{self.part.split('.')[1]}/{self.expert}"

    @property
    def address(self) -> str:
        return f"{self.layer}.{self.part}.{self.expert}"

    @classmethod
    def parse(cls, address: str) -> Cell:
        """Raises ValueError for what is no address."""
        match = re.fullmatch(r"(\d+)\.(\w+\.\w+)\.(\w+)", address)
        if match and match[2] in (*PARTS, *PACKED):
            for expert in EXPERTS:
                if expert == match[3]:
                    return cls(int(match[1]), match[2], expert)
        raise ValueError(f"got the adapter address {address!r}, wanted LAYER.PART.EXPERT like 0.attention.q.video")


@dataclass(frozen=True)
class RankScale:
    """How large a cell's change may be: its rank, and alpha, which scales it by alpha / rank."""

    rank: int
    alpha: float


@dataclass(frozen=True)
class MatrixShape:
    """Of one layer's matrix: rows of each expert, columns, experts."""

    rows: int
    columns: int
    num_experts: int


def linear_name(layer: int, matrix: str) -> str:
    return f"block.layers.{layer}.{matrix}"


def experts_of(config: ModelConfig, layer: int) -> tuple[Expert, ...]:
    return MODALITY_EXPERTS if layer in config.mm_layers else ("shared",)


def matrix_shape(config: ModelConfig, layer: int, matrix: str) -> MatrixShape:
    hidden, is_gelu = config.hidden_size, layer in config.gelu7_layers
    inner = config.gelu7_size if is_gelu else config.swiglu7_size
    key_values = 2 * config.num_query_groups * config.head_dim
    rows, columns = {
        "attention.linear_qkv": (hidden + key_values + config.num_heads, hidden),
        "attention.linear_proj": (hidden, hidden),
        "mlp.up_gate_proj": (inner if is_gelu else 2 * inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }[matrix]
    return MatrixShape(rows, columns, len(Modality) if layer in config.mm_layers else 1)


def part_rows(config: ModelConfig, layer: int, part: str) -> slice | None:
    """Rows of a part within an expert's rows of its matrix; None for a part that the layer lacks.

    The MLP's gate and up rows alternate in layers with a SwiGLU; those with a GELU have up rows alone.
    """
    matrix = PARTS.get(part, part)
    size = matrix_shape(config, layer, matrix).rows
    if matrix == "mlp.up_gate_proj" and part != matrix:
        if layer in config.gelu7_layers:
            return slice(0, size, 1) if part == "mlp.up" else None
        return slice(0 if part == "mlp.gate" else 1, size, 2)
    if matrix != "attention.linear_qkv" or part == matrix:
        return slice(0, size, 1)
    queries, keys = config.hidden_size, config.num_query_groups * config.head_dim
    start, stop = {
        "attention.q": (0, queries),
        "attention.k": (queries, queries + keys),
        "attention.v": (queries + keys, queries + 2 * keys),
        "attention.gate": (queries + 2 * keys, size),
    }[part]
    return slice(start, stop, 1)


def num_rows(rows: slice) -> int:
    return len(range(rows.start, rows.stop, rows.step))


def cell_rows(config: ModelConfig, cell: Cell) -> slice:
    """Raises ValueError for a cell that the model has not."""
    known = cell.layer < config.num_layers and cell.expert in experts_of(config, cell.layer)
    rows = part_rows(config, cell.layer, cell.part) if known else None
    if rows is None:
        raise ValueError(f"the model has no {cell.address}: it is of another architecture than the adapter's base")
    return rows


@dataclass(frozen=True, kw_only=True)
class AdapterRule:
    """A rank for some parts of some layers and experts.

    Args:
        rank: of the change; 0 leaves what an earlier rule chose unchanged after all.
        alpha: the change is scaled by alpha / rank; None makes that 1.
        layers: "all", or numbers and ranges: "0-3,36-39".
        parts: patterns of attention.q, .k, .v, .gate, .linear_proj, mlp.gate, .up, .down_proj; or, written out,
            attention.linear_qkv and mlp.up_gate_proj, whose rows then share their first factor.
        experts: video, audio and text mean the experts of the layers that have one for each modality; shared means the
            layers whose weights all modalities share. A look alone, or a voice alone, leaves the shared layers out.

    Raises ValueError for what no layer can have.
    """

    rank: int = 16
    alpha: float | None = None
    layers: str = "all"
    parts: Sequence[str] = DEFAULT_PARTS
    experts: Sequence[Expert] = EXPERTS

    def __post_init__(self) -> None:
        faults = []
        if self.rank < 0:
            faults.append(f"rank {self.rank}, wanted 1 or more, or 0 for none")
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            faults.append(f"alpha {self.alpha}, wanted a number above 0, or null for the rank")
        names = (*PARTS, *PACKED)
        strange = [pattern for pattern in self.parts if not any(fnmatchcase(name, pattern) for name in names)]
        if strange or not self.parts:
            faults.append(f"parts {strange or list(self.parts)}, wanted patterns of {', '.join(names)}")
        if not self.experts or not set(self.experts) <= set(EXPERTS):
            faults.append(f"experts {list(self.experts)}, wanted some of {', '.join(EXPERTS)}")
        if self.layers != "all" and not re.fullmatch(r"\d+(-\d+)?(,\s*\d+(-\d+)?)*", self.layers):
            faults.append(f'layers {self.layers!r}, wanted "all" or numbers and ranges like "0-3,36-39"')
        if faults:
            raise ValueError("adapter rule: got " + "; ".join(faults))

    def numbers(self, config: ModelConfig) -> list[int]:
        """The layers. Raises ValueError for some that the model has not."""
        if self.layers == "all":
            return list(range(config.num_layers))
        found: list[int] = []
        for piece in self.layers.split(","):
            first, _, last = piece.strip().partition("-")
            found += range(int(first), int(last or first) + 1)
        if not found or max(found) >= config.num_layers:
            raise ValueError(f"adapter rule: got layers {self.layers!r}, the model has 0 to {config.num_layers - 1}")
        return found

    def matches(self, part: str) -> bool:
        """Patterns mean parts; a packed matrix as one is meant where it is written out."""
        return any(part == pattern or (part in PARTS and fnmatchcase(part, pattern)) for pattern in self.parts)


@dataclass(frozen=True, kw_only=True)
class AdapterRecipe:
    """What is adapted, and how.

    Args:
        rules: where several match, the last decides; what none matches stays as it is.
        decomposed: DoRA: the rows' lengths are learned too, apart from their directions.
    """

    rules: Sequence[AdapterRule] = field(default_factory=lambda: (AdapterRule(),))
    decomposed: bool = False

    def cells(self, config: ModelConfig) -> dict[Cell, RankScale]:
        """What is adapted in a model, in the order of its layers.

        Raises:
            ValueError: for layers that the model has not, a rule that matches nothing, a rank over the matrix, or a
                matrix adapted as a whole and in parts. Every fault is told.
        """
        chosen: dict[Cell, RankScale] = {}
        faults = []
        for number, rule in enumerate(self.rules):
            matched = [
                Cell(layer, part, expert)
                for layer in rule.numbers(config)
                for part in (*PARTS, *PACKED)
                if rule.matches(part) and part_rows(config, layer, part) is not None
                for expert in experts_of(config, layer)
                if expert in rule.experts
            ]
            if not matched:
                faults.append(f"rule {number} matches nothing in this model: {rule}")
            alpha = float(rule.rank) if rule.alpha is None else rule.alpha
            chosen |= dict.fromkeys(matched, RankScale(rule.rank, alpha))
        chosen = {cell: chosen[cell] for cell in sorted(chosen) if chosen[cell].rank}
        faults += rank_faults(config, chosen) + _overlaps(chosen)
        if not chosen and not faults:
            faults.append("the rules leave nothing to adapt")
        if faults:
            raise ValueError("adapters: " + "\n  ".join(faults))
        return chosen


def rank_faults(config: ModelConfig, cells: Mapping[Cell, RankScale]) -> list[str]:
    """Ranks that a block cannot have: one line for each part, however many layers have it."""
    found: dict[tuple[str, int], str] = {}
    for cell, scale in cells.items():
        rows, columns = num_rows(cell_rows(config, cell)), matrix_shape(config, cell.layer, cell.matrix).columns
        if scale.rank > min(rows, columns):
            found[cell.part, scale.rank] = (
                f"rank {scale.rank} is over that of {cell.part}, which is {rows} x {columns}: "
                f"give it a rule of its own with a rank of {min(rows, columns)} or less"
            )
    return list(found.values())


def _overlaps(cells: Mapping[Cell, RankScale]) -> list[str]:
    whole = {(cell.layer, cell.part, cell.expert) for cell in cells if cell.part in PACKED}
    twice = {f"{c.matrix} and {c.part}" for c in cells if c.part != c.matrix and (c.layer, c.matrix, c.expert) in whole}
    return [f"adapted twice: {pair}; take the whole matrix or its parts" for pair in sorted(twice)]


def num_parameters(config: ModelConfig, recipe: AdapterRecipe) -> int:
    """Trained parameters, in closed form."""
    total = 0
    for cell, scale in recipe.cells(config).items():
        rows, columns = num_rows(cell_rows(config, cell)), matrix_shape(config, cell.layer, cell.matrix).columns
        total += scale.rank * (rows + columns) + (rows if recipe.decomposed else 0)
    return total
