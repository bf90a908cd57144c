"""The shape of the tree: files stay small, and every test module stands where its subject stands."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "hh_train"
TESTS = REPOSITORY / "tests"
MAX_LINES = 600
NOT_MIRRORED = ("configs", "docs", "data_sets", "scripts", "notebooks")
"""Folders of tests/ whose subject is no module of the package."""
WITHOUT_SUBJECT = (
    "test_layout.py",
    "test_layers.py",
    "test_reference.py",
    "test_compile.py",
    "test_known_answers.py",
    "test_custom_footage.py",
)
"""Test modules of the package as a whole, or of several modules together."""


def test_no_module_is_longer_than_the_limit() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert len(lengths) > 10
    too_long = {str(path.relative_to(REPOSITORY)): n for path, n in lengths.items() if n > MAX_LINES}
    assert not too_long, f"split these: {too_long}"


def test_every_test_module_mirrors_a_module() -> None:
    strangers = []
    for path in TESTS.rglob("test_*.py"):
        relative = path.relative_to(TESTS)
        if relative.parts[0] in NOT_MIRRORED or relative.name in WITHOUT_SUBJECT:
            continue
        subject = PACKAGE / relative.parent / relative.name.removeprefix("test_")
        if not subject.is_file():
            strangers.append(str(relative))
    assert not strangers, f"no module of hh_train is tested by these: {strangers}"


def test_modules_are_named_for_what_they_hold() -> None:
    vague = {"utils", "helpers", "manager", "managers", "misc", "common"}
    names = {part for path in PACKAGE.rglob("*.py") for part in path.relative_to(PACKAGE).with_suffix("").parts}
    assert not names & vague
