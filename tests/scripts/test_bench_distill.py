"""The script runs from start to end at toy size and prints what it measures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench_distill.py"


@pytest.fixture(scope="module")
def printed() -> str:
    command = [sys.executable, str(SCRIPT), "--tiny", "--rounds", "1", "--clips", "2", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(printed: str, title: str) -> list[list[str]]:
    """The cells of the table under a title."""
    below = printed[printed.index(title) :].split("└", maxsplit=1)[0]
    return [[cell.strip() for cell in line.strip("│\n").split("│")] for line in below.splitlines() if line[0] == "│"]


def test_an_iteration_has_a_rate_and_costs_more_than_a_pretraining_step(printed: str) -> None:
    pretraining, distillation = rows(printed, "Rate")
    assert float(distillation[1]) > 1.5 * float(pretraining[1])
    assert pretraining[-1].startswith("100 %")
    assert 10 < float(distillation[-1].split()[0]) < 300


def test_no_pass_is_wasted(printed: str) -> None:
    passes = {name: int(count) for name, count in rows(printed, "Forward passes over the batch")}
    assert passes["by the formula"] > 30
    assert passes["carried out but not needed"] == 0


def test_adapters_take_less_memory(printed: str) -> None:
    """The measured peak is the sum of its parts, as far as whole MiB of a toy can show it."""
    copies, adapters = (
        [float(cell.replace(",", "")) for cell in row[1:]] for row in rows(printed, "Memory of an iteration")
    )
    assert adapters[0] < copies[0] and adapters[2] < copies[2]
    for _, predicted, measured in (copies, adapters):
        assert measured == pytest.approx(predicted, rel=0.25, abs=1)
