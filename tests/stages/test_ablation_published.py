"""Published directions beside ours: the verdicts of known intervals, and that the table names rows that there are."""

from __future__ import annotations

import pytest
from omegaconf import DictConfig, OmegaConf

from hh_train.metrics.comparison.difference import Difference
from hh_train.metrics.comparison.pooled import PooledDifference
from hh_train.metrics.measure import Measure
from hh_train.runtime.composition import compose_config, config_folder
from hh_train.stages.ablation_published import (
    NAMES_OF_RECIPE,
    PUBLISHED,
    Expected,
    Published,
    judge,
    rows_at_hand,
)

MEASURES = (
    Measure(name="fvd", title="FVD", better="lower"),
    Measure(name="saturation", title="saturation"),
)


def verdict(expected: Expected, low: float, high: float, *, measure: str = "fvd", p_value: float | None = None) -> str:
    one = Published(row="a", against="b", expected=expected, finding="", source="", measures=("kvd", measure))
    found = Difference(mean=(low + high) / 2, low=low, high=high, num_clips=9, p_value=p_value)
    differences = {measure: PooledDifference(difference=found)}
    return judge(one, differences, MEASURES, other_scores={measure: 10.0}).verdict


@pytest.mark.parametrize(
    ("expected", "low", "high", "said"),
    [
        ("worse", 0.1, 0.5, "agree"),
        ("worse", -0.5, -0.1, "disagree"),
        ("worse", -0.1, 0.5, "cannot tell"),
        ("better", 0.1, 0.5, "disagree"),
        ("better", -0.5, -0.1, "agree"),
        ("same", -0.9, 0.9, "agree"),
        ("same", 0.1, 0.5, "agree"),
        ("same", -1.1, 0.9, "cannot tell"),
        ("same", 0.5, 1.5, "cannot tell"),
        ("same", 1.1, 1.5, "disagree"),
    ],
)
def test_the_interval_decides(expected: Expected, low: float, high: float, said: str) -> None:
    assert verdict(expected, low, high) == said


def test_a_description_has_no_better_side() -> None:
    assert verdict("higher", 0.1, 0.5, measure="saturation") == "agree"
    assert verdict("lower", 0.1, 0.5, measure="saturation") == "disagree"
    assert verdict("better", 0.1, 0.5, measure="saturation") == "cannot tell"


def test_the_test_has_a_say_too() -> None:
    assert verdict("worse", 0.1, 0.5, p_value=0.2) == "cannot tell"
    assert verdict("worse", 0.1, 0.5, p_value=0.01) == "agree"


def test_what_was_not_measured_cannot_be_told() -> None:
    one = Published(row="a", against="b", expected="worse", finding="", source="", measures=("kvd", "fid"))
    found = judge(one, {}, MEASURES, other_scores={})
    assert (found.verdict, found.observed, found.measure) == ("cannot tell", "not measured in both", "kvd or fid")


def test_rows_are_those_of_the_configurations() -> None:
    experiments = config_folder() / "experiment" / "distill"
    known = {path.stem for path in experiments.rglob("*.yaml")} | {"teacher"}
    assert {name for one in PUBLISHED for name in (one.row, one.against)} <= known
    assert all(one.source and one.finding for one in PUBLISHED)


def test_the_recipe_has_one_name_in_every_sweep() -> None:
    """The files change nothing of the default, and are found under each name."""
    known = [module_of(compose_config("distill", [f"experiment=distill/ablations/{n}"])) for n in NAMES_OF_RECIPE]
    assert all(config == known[0] for config in known)
    found = {(one.row, one.against) for one in rows_at_hand({"critic_rate_base", "critic_rate_five_for_steps"})}
    assert found == {("critic_rate_five_for_steps", "critic_rate_base")}
    assert {(one.row, one.against) for one in rows_at_hand({"steps_8", "teacher"})} == {("steps_8", "teacher")}


def module_of(config: DictConfig) -> object:
    return OmegaConf.to_container(config.module, resolve=True)


def test_only_rows_at_hand_are_judged() -> None:
    found = rows_at_hand({"parts_full", "parts_with_gan", "steps_1"})
    assert {(one.row, one.against) for one in found} == {("parts_with_gan", "parts_full")}
    assert rows_at_hand({"parts_full"}) == []
