"""The script runs from start to end, and reading takes less than twice the model's own bytes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hh_train.runtime.composition import config_folder

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "measure_loading.py"


def test_peak_memory_of_a_checkpoint_in_several_files(tmp_path: Path) -> None:
    """The 50M preset, since the process's own few megabytes would hide what a smaller model takes."""
    assert (config_folder() / "model" / "sandwich_50m.yaml").is_file()
    command = [sys.executable, str(SCRIPT), "--preset", "sandwich_50m", "--max-file-size", "40MB"]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    rows = {words[0]: words for line in done.stdout.splitlines() if (words := line.split())}
    for parameter_dtype, gigabytes in (("as_stored", 0.107), ("float32", 0.207)):
        _, model, _, ratio, _ = rows[parameter_dtype]
        assert abs(float(model) - gigabytes) < 0.01
        assert 0.9 < float(ratio) < 1.5
    assert list(tmp_path.iterdir()) == []
