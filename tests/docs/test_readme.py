"""What the README names is there."""

from __future__ import annotations

import re
import shlex
from itertools import product
from pathlib import Path

import pytest

from hh_train.cli import STAGES, in_one_form
from hh_train.runtime.composition import compose_config

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^ +hh-train (.+)$", re.sub(r" *\\\n *", " ", README), flags=re.MULTILINE)


def test_every_stage_it_calls_exists() -> None:
    called = set(re.findall(r"hh-train ([a-z_]+)", README))
    assert {"tokenize", "pretrain", "distill", "generate"} <= called <= set(STAGES)


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_every_command_composes(command: str) -> None:
    stage, *overrides = in_one_form(shlex.split(command))
    is_sweep = "-m" in overrides
    choices = [values_of(override, stage) if is_sweep else [override] for override in overrides if override != "-m"]
    for job in product(*choices):
        assert "_target_" in compose_config(stage, list(job))


def values_of(override: str, stage: str) -> list[str]:
    """One override for each value of a sweep: of a list with commas, or of files that match."""
    key, _, value = override.partition("=")
    pattern = re.fullmatch(r"glob\((.+)\)", value)
    if pattern is None:
        return [f"{key}={one}" for one in value.split(",")]
    group = ROOT / "configs" / key.removeprefix("+")
    found = sorted(path.stem for path in group.glob(f"{pattern[1]}.yaml"))
    assert found, f"{override} of {stage} matches no file of {group}"
    return [f"{key}={name}" for name in found]


@pytest.mark.parametrize("path", sorted(set(re.findall(r"bash (scripts/[a-z_]+\.sh)|\]\(([^)#:]+)\)", README))))
def test_every_file_it_points_to_exists(path: tuple[str, str]) -> None:
    assert (ROOT / "".join(path)).exists()


def test_its_tree_is_the_trees() -> None:
    packages = re.findall(r"^      ([a-z]+)/ ", README, flags=re.MULTILINE)
    assert set(packages) == {
        folder.name for folder in (ROOT / "hh_train").iterdir() if (folder / "__init__.py").is_file()
    }
