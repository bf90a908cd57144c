"""The script runs from start to end at toy size, and prints a row for all it measures."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench_eval.py"


@pytest.fixture(scope="module")
def printed() -> str:
    command = [sys.executable, str(SCRIPT), "--tiny", "--rounds", "1", "--processes", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(printed: str, title: str) -> list[list[str]]:
    """The cells of the table under a title."""
    below = printed[printed.index(title) :].split("└", maxsplit=1)[0]
    return [[cell.strip() for cell in line.strip("│\n").split("│")] for line in below.splitlines() if line[0] == "│"]


def test_every_measurer_has_its_cost_and_the_shares_add_up(printed: str) -> None:
    found = {row[0]: row for row in rows(printed, "Measures, one after the other")}
    assert {"decode", "find the face", "sync", "motion", "cost", "all"} <= set(found)
    assert "speech" not in found, "the toy clips need no trained recognizer"
    shares = [float(row[3].split()[0]) for name, row in found.items() if name != "all"]
    assert sum(shares) == pytest.approx(100, abs=1)
    milliseconds = {name: float(row[1]) for name, row in found.items()}
    assert milliseconds["motion"] > milliseconds["cost"]
    assert milliseconds["all"] == pytest.approx(sum(ms for name, ms in milliseconds.items() if name != "all"), rel=0.05)


def test_decoding_once_is_set_against_decoding_for_each(printed: str) -> None:
    (row,) = rows(printed, "Each clip decoded, and its face found, once")
    assert float(row[2].split("x")[0]) > 1.05


def test_processes_share_an_evaluation_that_is_not_done_twice(printed: str) -> None:
    ((processes, fresh, again, gain),) = rows(printed, "hh-train evaluate on 3 clips")
    assert processes == "1" and float(fresh) > 0 and float(again) > 0 and re.fullmatch(r"[\d.]+x", gain)
