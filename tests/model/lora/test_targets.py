"""Which rows are meant by which words."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from hh_train.model.config import ModelConfig
from hh_train.model.lora import AdapterRecipe, AdapterRule, Cell, attach_adapter, num_parameters
from hh_train.model.lora.targets import RankScale, cell_rows, matrix_shape, part_rows
from hh_train.model.transformer import SandwichTransformer

RELEASED = ModelConfig(
    num_layers=40, hidden_size=5120, head_dim=128, num_query_groups=8, video_in_channels=192, audio_in_channels=64,
    text_in_channels=3584, mm_layers=(0, 1, 2, 3, 36, 37, 38, 39), gelu7_layers=(0, 1, 2, 3),
)  # fmt: skip


def test_rows_of_the_released_matrices() -> None:
    rows = {part: part_rows(RELEASED, 4, f"attention.{part}") for part in ("q", "k", "v", "gate")}
    assert rows == {
        "q": slice(0, 5120, 1),
        "k": slice(5120, 6144, 1),
        "v": slice(6144, 7168, 1),
        "gate": slice(7168, 7208, 1),
    }
    assert part_rows(RELEASED, 4, "mlp.gate") == slice(0, 27304, 2)
    assert part_rows(RELEASED, 4, "mlp.up") == slice(1, 27304, 2)
    assert part_rows(RELEASED, 0, "mlp.up") == slice(0, 20480, 1)
    assert part_rows(RELEASED, 0, "mlp.gate") is None


def test_shapes_are_those_of_the_model(tiny_model: SandwichTransformer) -> None:
    for index in range(4):
        for matrix in ("attention.linear_qkv", "attention.linear_proj", "mlp.up_gate_proj", "mlp.down_proj"):
            weight = tiny_model.get_submodule(f"block.layers.{index}.{matrix}").weight
            shape = matrix_shape(tiny_model.config, index, matrix)
            assert tuple(weight.shape) == (shape.num_experts * shape.rows, shape.columns)


def test_the_parts_of_a_matrix_are_all_its_rows_once() -> None:
    for layer in (0, 4, 36):
        for matrix, parts in (
            ("attention.linear_qkv", ("attention.q", "attention.k", "attention.v", "attention.gate")),
            ("mlp.up_gate_proj", ("mlp.gate", "mlp.up")),
        ):
            size = matrix_shape(RELEASED, layer, matrix).rows
            slices = [rows for part in parts if (rows := part_rows(RELEASED, layer, part)) is not None]
            covered = Counter(row for rows in slices for row in range(rows.start, rows.stop, rows.step))
            assert covered == Counter(range(size))


def test_by_default_every_expert_has_its_own_and_gates_have_none(tiny_config: ModelConfig) -> None:
    cells = AdapterRecipe().cells(tiny_config)
    assert set(cells.values()) == {RankScale(16, 16.0)}
    addresses = {cell.address for cell in cells}
    assert {f"0.attention.q.{expert}" for expert in ("video", "audio", "text")} <= addresses
    assert "1.attention.q.shared" in addresses and "1.attention.q.video" not in addresses
    assert not any("attention.gate" in address or "linear_qkv" in address for address in addresses)
    assert "0.mlp.gate.video" not in addresses and "3.mlp.gate.video" in addresses
    assert len(cells) == 3 * 6 + 2 * 7 + 3 * 7


def test_the_last_rule_that_matches_decides(tiny_config: ModelConfig) -> None:
    rules = (
        AdapterRule(rank=4),
        AdapterRule(rank=8, alpha=2.0, layers="1-2", parts=("mlp.*",)),
        AdapterRule(rank=0, layers="2,3", parts=("mlp.up",)),
    )
    cells = AdapterRecipe(rules=rules).cells(tiny_config)
    assert cells[Cell(1, "mlp.up", "shared")] == RankScale(8, 2.0)
    assert cells[Cell(0, "mlp.up", "text")] == RankScale(4, 4.0)
    assert Cell(2, "mlp.up", "shared") not in cells and Cell(3, "mlp.up", "audio") not in cells


def test_voice_alone(tiny_config: ModelConfig) -> None:
    cells = AdapterRecipe(rules=(AdapterRule(rank=4, experts=("audio",)),)).cells(tiny_config)
    assert {cell.layer for cell in cells} == {0, 3} and {cell.expert for cell in cells} == {"audio"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": -1}, "rank -1, wanted 1 or more"),
        ({"parts": ["attention.query"]}, r"parts \['attention.query'\], wanted patterns of attention.q"),
        ({"parts": []}, "wanted patterns of"),
        ({"experts": []}, r"experts \[\], wanted some of video, audio, text, shared"),
        ({"alpha": 0.0}, "alpha 0.0, wanted a number above 0"),
        ({"alpha": float("nan")}, "alpha nan, wanted a number above 0"),
        ({"layers": "first"}, 'wanted "all" or numbers and ranges'),
    ],
)
def test_rules_that_no_model_has(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdapterRule(**fields)


def test_rules_that_this_model_has_not(tiny_config: ModelConfig) -> None:
    with pytest.raises(ValueError, match="got layers '3-9', the model has 0 to 3"):
        AdapterRecipe(rules=(AdapterRule(layers="3-9"),)).cells(tiny_config)
    with pytest.raises(ValueError, match="rule 0 matches nothing"):
        AdapterRecipe(rules=(AdapterRule(layers="1", experts=("video",)),)).cells(tiny_config)
    with pytest.raises(ValueError, match="nothing to adapt"):
        AdapterRecipe(rules=(AdapterRule(rank=0),)).cells(tiny_config)


def test_a_rank_over_the_matrix_is_told_with_what_it_may_be(tiny_config: ModelConfig) -> None:
    with pytest.raises(ValueError) as caught:
        AdapterRecipe(rules=(AdapterRule(rank=17, parts=("attention.*",)),)).cells(tiny_config)
    assert "rank 17 is over that of attention.gate, which is 2 x 32" in str(caught.value)
    assert "attention.k, which is 16 x 32: give it a rule of its own with a rank of 16 or less" in str(caught.value)
    assert "attention.q" not in str(caught.value)


def test_whole_and_parts_exclude_each_other(tiny_config: ModelConfig) -> None:
    rules = (AdapterRule(rank=2), AdapterRule(rank=2, parts=("attention.linear_qkv",), layers="1"))
    with pytest.raises(ValueError, match=r"adapted twice: attention.linear_qkv and attention.k"):
        AdapterRecipe(rules=rules).cells(tiny_config)


@pytest.mark.parametrize("kind", ["parts", "packed", "voice", "decomposed"])
def test_parameters_in_closed_form(
    kind: str, recipes: dict[str, AdapterRecipe], tiny_model: SandwichTransformer
) -> None:
    attached = attach_adapter(tiny_model, "one", recipes[kind])
    counted = sum(parameter.numel() for parameter in attached.parameters())
    assert num_parameters(tiny_model.config, recipes[kind]) == counted
    assert counted == sum(p.numel() for p in tiny_model.parameters() if p.requires_grad)


def test_parameters_of_the_released_model() -> None:
    """By hand: rank 32 for the whole of every product of a shared layer."""
    parts = ("attention.linear_qkv", "attention.linear_proj", "mlp.up_gate_proj", "mlp.down_proj")
    recipe = AdapterRecipe(rules=(AdapterRule(rank=32, parts=parts, experts=("shared",)),))
    per_layer = 32 * ((7208 + 5120) + (5120 + 5120) + (27304 + 5120) + (5120 + 13652))
    assert num_parameters(RELEASED, recipe) == 32 * per_layer


def test_addresses_are_read_back() -> None:
    cell = Cell(12, "attention.linear_qkv", "shared")
    assert Cell.parse(cell.address) == cell
    for wrong in ("12.attention.shared", "x.attention.q.video", "1.attention.q.speech", "1.attention.query.video"):
        with pytest.raises(ValueError, match=r"wanted LAYER.PART.EXPERT"):
            Cell.parse(wrong)


def test_a_cell_of_another_architecture(tiny_config: ModelConfig) -> None:
    assert cell_rows(tiny_config, Cell(0, "mlp.up", "video")) == slice(0, 128, 1)
    with pytest.raises(ValueError, match=r"the model has no 0.mlp.up.shared"):
        cell_rows(tiny_config, Cell(0, "mlp.up", "shared"))
    with pytest.raises(ValueError, match=r"the model has no 0.mlp.gate.video"):
        cell_rows(replace(tiny_config), Cell(0, "mlp.gate", "video"))
