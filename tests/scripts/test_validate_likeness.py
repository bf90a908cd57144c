"""Same person against others: areas and ranks of known tables, and footage that allows none."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch

from hh_train.data.media.files import write_clip
from hh_train.types import Clip

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "validate_likeness.py"


def test_areas_and_ranks_of_known_tables() -> None:
    script = runpy.run_path(str(SCRIPT))
    own = np.eye(3, dtype=bool)[[0, 0, 1, 1, 2, 2]]
    perfect, turned, blind = own.astype(float), 1 - own.astype(float), np.ones(own.shape)
    assert [script["_area"](table, own) for table in (perfect, turned, blind)] == [1.0, 0.0, 0.5]
    half = perfect.copy()
    half[::2] = np.roll(half[::2], 1, axis=1)  # every other clip is most like somebody else
    assert script["_scores"](perfect, own) == ("1.000 (1.000 to 1.000)", "100.0% (100.0% to 100.0%)")
    assert script["_scores"](half, own)[1] == "50.0% (50.0% to 50.0%)"


def test_footage_that_says_too_little_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(SCRIPT))["main"]
    for i in range(2):
        wall = Clip(
            frames=torch.full((9, 64, 64, 3), 90, dtype=torch.uint8),
            frames_per_second=25.0,
            waveform=torch.randn(9 * 640, generator=torch.Generator().manual_seed(i)) / 10,
            samples_per_second=16_000,
        )
        write_clip(tmp_path / f"{i}.mp4", wall)
        (tmp_path / f"{i}.txt").write_text("A head.")
    assert main([str(tmp_path)]) == 1
    assert "names no speaker" in capsys.readouterr().err
    for i in range(2):
        fields = {"key": str(i), "description": "a head", "speaker": "ann"}
        (tmp_path / f"{i}.json").write_text(json.dumps(fields))
    assert main([str(tmp_path)]) == 1
    assert "face: 0 people" in capsys.readouterr().err
