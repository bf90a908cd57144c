"""Every root, with every option of every group it has and every experiment made for it, composes without a fault."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from hh_train.cli import STAGES
from hh_train.runtime.composition import compose_config, config_folder
from hh_train.runtime.config import config_faults

CONFIGS = config_folder()
ROOTS = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
MAX_EXPERIMENT_LINES = 25


def groups_of(root: str) -> list[str]:
    """The groups in the defaults list of a root; one that is reached from a group of its own is tested with that."""
    entries = yaml.safe_load((CONFIGS / f"{root}.yaml").read_text(encoding="utf-8")).get("defaults", [])
    keys = (key.split()[-1] for entry in entries if isinstance(entry, dict) for key in entry)
    return [key.split("@")[0].lstrip("/") + ("@" + key.split("@")[1] if "@" in key else "") for key in keys]


def options_of(group: str) -> list[str]:
    folder = CONFIGS / group.split("@", maxsplit=1)[0]
    return sorted(str(path.relative_to(folder).with_suffix("")) for path in folder.rglob("*.yaml"))


def experiments_of(root: str) -> list[str]:
    folder = CONFIGS / "experiment" / root
    return sorted(str(path.relative_to(CONFIGS / "experiment").with_suffix("")) for path in folder.rglob("*.yaml"))


CHOICES = [
    (root, f"{group}={option}")
    for root in ROOTS
    for group in groups_of(root)
    if group != "experiment"
    for option in options_of(group)
]
EXPERIMENTS = [(root, experiment) for root in ROOTS for experiment in experiments_of(root)]


def assert_no_faults(root: str, overrides: list[str]) -> None:
    faults = config_faults(compose_config(root, overrides))
    assert not faults, "\n".join(map(str, faults))


def test_there_is_one_root_a_stage() -> None:
    assert sorted(STAGES) == ROOTS


@pytest.mark.parametrize("root", ROOTS)
def test_root(root: str) -> None:
    assert_no_faults(root, [])


@pytest.mark.parametrize("root", ROOTS)
def test_no_group_is_optional(root: str) -> None:
    """Hydra passes over a misspelt option of an optional group without a word; `group: null` leaves one out as well."""
    entries = yaml.safe_load((CONFIGS / f"{root}.yaml").read_text(encoding="utf-8"))["defaults"]
    assert not [key for entry in entries if isinstance(entry, dict) for key in entry if key.startswith("optional ")]


@pytest.mark.parametrize("root", ROOTS)
def test_root_calls_the_stage_of_its_name(root: str) -> None:
    assert compose_config(root)["_target_"] == f"hh_train.stages.{root}.run"


@pytest.mark.parametrize(("root", "choice"), CHOICES)
def test_group_option(root: str, choice: str) -> None:
    """What an option leaves to the user (???) is no fault of it."""
    faults = [fault for fault in config_faults(compose_config(root, [choice])) if "???" not in str(fault)]
    assert not faults, "\n".join(map(str, faults))


@pytest.mark.parametrize(("root", "experiment"), EXPERIMENTS)
def test_experiment(root: str, experiment: str) -> None:
    plus = "" if "experiment" in groups_of(root) else "+"
    assert_no_faults(root, [f"{plus}experiment={experiment}"])


@pytest.mark.parametrize("experiment", [experiment for _, experiment in EXPERIMENTS])
def test_experiment_is_a_short_delta_headed_by_its_command(experiment: str) -> None:
    path = CONFIGS / "experiment" / f"{experiment}.yaml"
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_EXPERIMENT_LINES
    assert any(line.startswith("# hh-train ") for line in lines), "the head says the command that runs it"


def test_every_experiment_belongs_to_a_root() -> None:
    every = set((CONFIGS / "experiment").rglob("*.yaml"))
    owned = {CONFIGS / "experiment" / f"{experiment}.yaml" for _, experiment in EXPERIMENTS}
    assert every == owned


def resolvers(path: Path) -> set[str]:
    config = OmegaConf.load(path)
    text = OmegaConf.to_yaml(config)
    return {part.split(":")[0] for part in text.split("${")[1:] if ":" in part.split("}")[0]}


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_only_plain_resolvers_are_used(path: Path) -> None:
    assert resolvers(path) <= {"oc.env", "oc.select", "hydra", "now"}


@pytest.mark.parametrize("root", sorted(ROOTS))
def test_no_key_shares_its_name_with_a_group_that_the_root_does_not_choose_from(root: str) -> None:
    """Else `key=value` on the command line is taken for a choice in that group, and refused."""
    fields = yaml.safe_load((CONFIGS / f"{root}.yaml").read_text(encoding="utf-8"))
    groups = {path.name for path in CONFIGS.iterdir() if path.is_dir()}
    chosen = {name for entry in fields["defaults"] if isinstance(entry, dict) for name in entry}
    assert set(fields) & groups <= chosen
