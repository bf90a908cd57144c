"""The import contracts of pyproject.toml hold, and would notice a breach."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-cache"]
    environment = {"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_contracts_are_kept() -> None:
    answer = lint_imports(REPOSITORY)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "0 broken" in answer.stdout


def test_a_breach_of_each_contract_is_noticed(tmp_path: Path) -> None:
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    package = tmp_path / "hh_train"
    layers = ("stages", "training", "arena", "inference", "data", "tokenizers", "model", "flow", "metrics", "runtime")
    for name in layers:
        (package / name).mkdir(parents=True)
        (package / name / "__init__.py").touch()
    for name in ("__init__", "cli", "types"):
        (package / f"{name}.py").touch()
    (package / "data" / "datamodule.py").write_text("import lightning\n")
    assert "0 broken" in lint_imports(tmp_path).stdout
    (package / "flow" / "__init__.py").write_text("import hh_train.model\n")
    (package / "stages" / "__init__.py").write_text("import omegaconf\n")
    (package / "data" / "__init__.py").write_text("import lightning\n")
    assert "3 broken" in lint_imports(tmp_path).stdout
