"""Makes the recipe's modules importable, and renders one small set that the tests share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

RECIPE = Path(__file__).resolve().parents[2] / "data" / "talking_heads"
sys.path.insert(0, str(RECIPE))

COUNTS = "train=5,validation=2,test=2"


@pytest.fixture(scope="session", autouse=True)
def espeak() -> None:
    pytest.importorskip("espeakng_loader", reason="needs the extra: pip install 'hh-train[demo]'")


@pytest.fixture(scope="session")
def footage(tmp_path_factory: pytest.TempPathFactory, espeak: None) -> Path:
    """English digit strings at 64 pixels, rendered in this process."""
    import render

    folder = tmp_path_factory.mktemp("footage")
    assert render.main(["--output", str(folder), "--clips-per-split", COUNTS, "--workers", "1"]) == 0
    return folder
