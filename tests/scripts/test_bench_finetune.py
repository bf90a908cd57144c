"""The benchmark of fine-tuning runs, and says what the plan says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_finetune.py"


@pytest.mark.parametrize("options", [["--format", "nf4"], ["--format", "float8", "--offload"]])
def test_a_small_model_on_the_cpu(options: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--small", "--rank", "4", "--steps", "3", *options],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert result["format"] == options[1]
    assert result["tokens"] == 13 * 4 * 4 + 51 + 20  # two seconds of 128 x 128 pixels
    assert result["trained_parameters"] > 1000
    assert 0 < result["loss"] < 1e3
    assert 0 < result["planned_peak_gib"] < 1 and result["seconds_per_step"] > 0
