"""The check of a whole configuration, and what is built from it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import pytest
from omegaconf import DictConfig, OmegaConf

from hh_train.runtime.annotations import Fault
from hh_train.runtime.config import ConfigError, config_faults, did_you_mean, instantiate


class Draws(Protocol):
    def draw(self, count: int) -> list[float]: ...


class Uniform:
    def __init__(self, *, low: float = 0.0, high: float) -> None:
        if high <= low:
            raise ValueError(f"got high {high}, wanted more than low {low}")
        self.low, self.high = low, high

    def draw(self, count: int) -> list[float]:
        return [self.low] * count


@dataclass(frozen=True, kw_only=True)
class Size:
    width: int
    layers: tuple[int, ...] = ()
    kind: Literal["swiglu", "gelu"] = "swiglu"


class Network:
    def __init__(self, *, size: Size, noise: Draws | None = None, init: Callable[[int], float] | None = None) -> None:
        self.size, self.noise, self.init = size, noise, init


def make_size(*, width: int) -> Size:
    return Size(width=2 * width)


def make_anything(**options: Any) -> Any:
    return options


def halve(number: int, *, by: float = 2.0) -> float:
    return number / by


def run(
    *,
    network: Network,
    output: Path,
    steps: int = 1,
    weights: Mapping[str, float] | None = None,
    callbacks: list[Draws] | None = None,
    size: Size | None = None,
) -> dict[str, Any]:
    return {
        "network": network,
        "output": output,
        "steps": steps,
        "weights": weights,
        "callbacks": callbacks,
        "size": size,
    }


NOT_CALLABLE = 3


def target(function: Callable[..., Any] | str) -> str:
    return f"{__name__}.{function if isinstance(function, str) else function.__name__}"


def config(**changes: Any) -> DictConfig:
    """A configuration without faults; changes name keys with dots, written with two underscores, or `root_target`."""
    base = OmegaConf.create(
        {
            "paths": {"root": "runs/x"},
            "_target_": target(run),
            "network": {"_target_": target(Network), "size": {"_target_": target(Size), "width": 8}},
            "output": "${paths.root}/out",
        }
    )
    for key, value in changes.items():
        OmegaConf.update(base, key.replace("__", "."), value, merge=False, force_add=True)
    return base


def faults_of(**changes: Any) -> dict[str, str]:
    return {fault.key: fault.message for fault in config_faults(config(**changes))}


def test_no_faults() -> None:
    assert config_faults(config()) == []


def test_every_fault_is_reported_at_once() -> None:
    broken = OmegaConf.create(
        {
            "_target_": target(run),
            "step": 3,
            "network": {
                "_target_": target(Network),
                "size": {"_target_": target(Size), "widht": 8, "layers": [1, "two"], "kind": "relu"},
                "noise": {"_target_": "hh_train.nowhere.Noise"},
            },
            "output": "${paths.root}/out",
            "steps": "???",
            "weights": {"video": "heavy"},
            "callbacks": [{"_target_": target(Uniform), "high": 1}, {"_target_": target(Size), "width": 1}],
        }
    )
    assert [fault.key for fault in config_faults(broken)] == [
        "network.size.widht",
        "network.size.layers.1",
        "network.size.kind",
        "network.size.width",
        "network.noise._target_",
        "output",
        "steps",
        "step",
        "weights.video",
        "callbacks.1",
    ]


NOISE = {"_target_": "PLACE.Uniform", "high": 1}


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"stps": 3}, "stps", ["takes no such argument", "did you mean 'steps'"]),
        ({"network__nois": None}, "network.nois", ["takes no such argument", "did you mean 'noise'"]),
        ({"xyzzy": 3}, "xyzzy", ["takes no such argument"]),
        ({"network": {"_target_": "PLACE.Network"}}, "network.size", ["is missing", "Network"]),
        ({"steps": "many"}, "steps", ["'many'", "wanted int"]),
        ({"steps": None}, "steps", ["null", "wanted int"]),
        ({"steps": 2.5}, "steps", ["2.5", "wanted int"]),
        ({"output": [1]}, "output", ["wanted Path"]),
        ({"weights": {"video": [1]}}, "weights.video", ["wanted float"]),
        ({"weights": 3}, "weights", ["wanted Mapping[str, float] | None"]),
        ({"network__size__kind": "relu"}, "network.size.kind", ["'relu'", "wanted one of 'swiglu', 'gelu'"]),
        ({"network__size__layers": [1, 2.5]}, "network.size.layers.1", ["2.5", "wanted int"]),
        ({"network__size": {"width": 8}}, "network.size", ["mapping without `_target_`", "wanted Size"]),
        ({"network__size": {"_target_": "PLACE.Uniform", "high": 1}}, "network.size", ["got Uniform", "wanted Size"]),
        (
            {"network__noise": {"_target_": "PLACE.make_size", "width": 1}},
            "network.noise",
            ["got Size", "wanted Draws"],
        ),
        ({"network__init": 3}, "network.init", ["wanted Callable"]),
        ({"network__size___target_": "hh_train.nowhere.X"}, "network.size._target_", ["cannot import", "nowhere"]),
        (
            {"network__size___target_": "hh_train.types.Clop"},
            "network.size._target_",
            ["cannot import", "did you mean 'Clip'"],
        ),
        ({"network__size___target_": "PLACE.NOT_CALLABLE"}, "network.size._target_", ["is a int", "class or function"]),
        ({"network__size___target_": 3}, "network.size._target_", ["got 3", "dotted name"]),
        ({"network__size__width": "???"}, "network.size.width", ["no value yet", "network.size.width=VALUE"]),
        ({"steps": "${paths.rot}"}, "steps", ["interpolation", "rot"]),
        ({"paths__root": "???"}, "paths.root", ["no value yet"]),
        ({"callbacks": ["${network.noise}"], "network__noise": NOISE}, "callbacks.0", ["leads to an object"]),
        ({"network___partial_": "yes"}, "network._partial_", ["wanted true or false"]),
        ({"network___args_": [1]}, "network._args_", ["arguments are named"]),
        ({"_target_": "hh_train.stages.nothing.run"}, "_target_", ["cannot import"]),
    ],
)
def test_each_kind_of_fault_says_what_and_where(changes: dict[str, Any], key: str, words: list[str]) -> None:
    faults = faults_of(**_placed(changes))
    assert key in faults
    for word in words:
        assert word in faults[key]


def _placed(value: Any) -> Any:
    """PLACE stands for this module."""
    if isinstance(value, dict):
        return {key: _placed(element) for key, element in value.items()}
    if isinstance(value, list):
        return [_placed(element) for element in value]
    return value.replace("PLACE", __name__) if isinstance(value, str) else value


@pytest.mark.parametrize(
    "changes",
    [
        {"network__size": {"_target_": "PLACE.make_size", "width": 4}},
        {"network__size": {"_target_": "PLACE.make_anything", "whatever": {"a": 1}}},
        {"network__noise": {"_target_": "PLACE.Uniform", "high": 1}},
        {"network__init": {"_target_": "PLACE.halve", "_partial_": True, "by": 4}},
        {"network__init": {"_target_": "PLACE.Uniform", "_partial_": True}},
        {"weights": {"video": 1, "audio": 0.5}},
        {"callbacks": [{"_target_": "PLACE.Uniform", "high": 2}]},
        {"steps": "${network.size.width}"},
        {"output": "${oc.env:HH_TRAIN_NO_SUCH_VARIABLE,runs/y}"},
        {"network__size__layers": []},
    ],
)
def test_what_may_stand_there_is_no_fault(changes: dict[str, Any]) -> None:
    assert faults_of(**_placed(changes)) == {}


def test_a_root_without_a_target_is_a_fault() -> None:
    (fault,) = config_faults(OmegaConf.create({"steps": 3}))
    assert str(fault).startswith("(root): ")
    assert "_target_" in fault.message


def test_an_interpolation_may_lead_to_values_and_to_frozen_dataclasses() -> None:
    assert faults_of(size="${network.size}", weights="${paths.weights}", paths__weights={"video": 1.0}) == {}


def test_a_fault_behind_an_interpolation_is_told_once() -> None:
    assert set(faults_of(network__size__width="wide", size="${network.size}")) == {"network.size.width"}


def test_instantiate_builds_what_the_annotations_want() -> None:
    built = instantiate(
        config(
            network__size__layers=[1, 2],
            network__init={"_target_": target(halve), "_partial_": True, "by": 4},
            weights={"video": 1},
            callbacks=[{"_target_": target(Uniform), "high": 2}],
        )
    )
    assert built["output"] == Path("runs/x/out")
    assert built["weights"] == {"video": 1.0}
    assert built["network"].size == Size(width=8, layers=(1, 2))
    assert isinstance(built["network"].init, functools.partial)
    assert built["network"].init(8) == 2.0
    (noise,) = built["callbacks"]
    assert isinstance(noise.high, float)


def test_an_error_while_building_says_where() -> None:
    with pytest.raises(ValueError, match="wanted more than low") as caught:
        instantiate(config(network__noise={"_target_": target(Uniform), "low": 2, "high": 1}))
    assert "while building `network.noise`" in caught.value.__notes__


def test_instantiate_refuses_what_the_check_would_report() -> None:
    with pytest.raises(ConfigError, match=r"network\.size\.width: got 'wide'"):
        instantiate(config(network__size__width="wide"))


def test_the_error_lists_every_fault() -> None:
    error = ConfigError([Fault("a", "is wrong"), Fault("b.c", "is missing")])
    assert str(error) == "The configuration has 2 faults:\n  a: is wrong\n  b.c: is missing"


@pytest.mark.parametrize(
    ("word", "hint"), [("stps", "; did you mean 'steps'?"), ("xyzzy", ""), ("seed", "; did you mean 'seed'?")]
)
def test_did_you_mean(word: str, hint: str) -> None:
    assert did_you_mean(word, ["steps", "seed", "output"]) == hint
