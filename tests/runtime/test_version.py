from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hh_train.runtime import version
from hh_train.runtime.version import code_version


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty repository, in which the module seems to lie."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    git(tmp_path, "init", "--quiet")
    monkeypatch.setattr(version, "__file__", str(tmp_path / "hh_train" / "runtime" / "version.py"))
    monkeypatch.setattr(version.metadata, "version", lambda _: "1.2.3")
    code_version.cache_clear()
    yield tmp_path
    code_version.cache_clear()


def git(folder: Path, *arguments: str) -> str:
    author = ["-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
    answer = subprocess.run(["git", *author, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return answer.stdout.strip()


def fresh() -> str:
    code_version.cache_clear()
    return code_version()


def test_names_the_commit_and_whether_there_are_changes(checkout: Path) -> None:
    assert fresh() == "1.2.3"
    (checkout / "file").write_text("a")
    git(checkout, "add", "file")
    git(checkout, "commit", "--quiet", "-m", "first")
    commit = git(checkout, "rev-parse", "HEAD")
    (checkout / "untracked").write_text("a")
    assert fresh() == f"1.2.3+g{commit[:12]}"
    (checkout / "file").write_text("b")
    assert fresh() == f"1.2.3+g{commit[:12]}.dirty"


def test_outside_a_checkout_it_is_the_version_alone(monkeypatch: pytest.MonkeyPatch, checkout: Path) -> None:
    monkeypatch.setattr(version, "__file__", str(checkout / "lib" / "python" / "hh_train" / "runtime" / "version.py"))
    assert fresh() == "1.2.3"


def test_without_git_it_is_the_version_alone(monkeypatch: pytest.MonkeyPatch, checkout: Path) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    assert fresh() == "1.2.3"
