"""The script runs from start to end at toy size, and prints a row for all it measures."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench_data.py"


@pytest.fixture(scope="module")
def printed() -> str:
    command = [sys.executable, str(SCRIPT), "--tiny", "--rounds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(printed: str, title: str) -> list[list[str]]:
    """The cells of the table under a title."""
    below = printed[printed.index(title) :].split("└", maxsplit=1)[0]
    return [[cell.strip() for cell in line.strip("│\n").split("│")] for line in below.splitlines() if line[0] == "│"]


def test_the_loader_is_set_against_webdataset(printed: str) -> None:
    (found,) = rows(printed, "Training loader against webdataset")
    assert float(found[2]) > 10
    assert all(float(cell.split("x")[0]) > 0.01 for cell in found[4:])


def test_ways_to_read_from_afar_are_compared(printed: str) -> None:
    names = [row[0] for row in rows(printed, "From a web server on this machine")]
    assert names == [
        "local disk",
        "a clip at a time, 1 thread",
        "a clip at a time, 8 threads",
        "warm cache",
        "cold cache",
    ]


def test_memory_is_told_by_number_of_shards(printed: str) -> None:
    found = rows(printed, "Most memory of a process")
    assert [row[0] for row in found] == ["2", "8"]
    assert all(50 < float(row[3]) < 5000 for row in found)


def test_a_resume_is_set_against_the_start(printed: str) -> None:
    found = rows(printed, "Seconds until there is a batch")
    assert [row[0] for row in found] == ["0 % of the epoch", "50 % of the epoch", "95 % of the epoch"]
    assert found[0][3].startswith("1.00x")


def test_the_shares_of_tokenizing_add_up(printed: str) -> None:
    (found,) = rows(printed, "Footage to shards")
    shares = [float(cell) for cell in re.findall(r"([\d.]+) %", " ".join(found))]
    assert len(shares) == 4 and min(shares) > 0
    assert sum(shares) == pytest.approx(100, abs=0.5)
