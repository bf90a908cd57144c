"""The script runs from start to end at toy size, on whatever device there is, and prints a row for all it measures."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "bench_model.py"


@pytest.fixture(scope="module")
def printed() -> str:
    command = [sys.executable, str(SCRIPT), "--tiny", "--rounds", "1", "--modes", "eager", "--presets", "sandwich_50m"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(printed: str, title: str) -> list[list[str]]:
    """The cells of the table under a title."""
    below = printed[printed.index(title) :].split("└", maxsplit=1)[0]
    return [[cell.strip() for cell in line.strip("│\n").split("│")] for line in below.splitlines() if line[0] == "│"]


def test_products_and_steps_have_a_rate_in_both_dtypes(printed: str) -> None:
    (gemm,) = rows(printed, "Matrix products of one layer")
    assert float(gemm[-1]) > 1
    steps = rows(printed, "Training step on packs")
    assert [row[1] for row in steps] == ["bfloat16", "float32"]
    assert all(0.1 < float(row[3].split()[0]) < 120 for row in steps)  # no step is faster than its own products


def test_wan_has_about_as_many_parameters(printed: str) -> None:
    compared = rows(printed, "Training step against WanTransformer3DModel")
    assert len(compared) == 3
    for row in compared:
        ours, theirs = map(float, re.findall(r"[\d.]+(?= M)", row[3]))
        assert 0.7 < ours / theirs < 1.4
        assert float(row[4].split("x")[0]) > 0.1


def test_packs_are_filled_without_padding(printed: str) -> None:
    packs = rows(printed, "Packs of a realistic mix")
    assert [row[2] for row in packs] == ["0 %"] * 3
    assert all(95 < float(row[3].split()[0]) <= 100 for row in packs)


def test_what_needs_cuda_at_full_size_runs_at_toy_size(printed: str) -> None:
    layers = rows(printed, "Layers of the 15B model")
    assert {row[0] for row in layers} == {"shared", "sandwich"}
    assert len(rows(printed, "Products with one expert per modality")) == 2
    passes = rows(printed, "The whole 15B model")
    assert [row[0].split(",")[0] for row in passes] == ["256p", "1080p"]


def test_full_size_is_skipped_with_a_reason_where_there_is_no_cuda() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device: the full size would run")
    done = subprocess.run([sys.executable, str(SCRIPT), "--only", "pass"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pass: skipped, there is no CUDA device" in done.stdout
