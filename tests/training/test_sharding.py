"""Sharding changes where the parameters lie, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SCRIPT = Path(__file__).parent / "sharded_step.py"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("sharded") / "results.pt"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, str(SCRIPT), str(path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(path)


def test_each_rank_holds_its_share_of_every_layer(results: dict[str, Any]) -> None:
    assert results["share"] == pytest.approx(0.5, abs=0.01)
    assert results["units"] == ["", "block.layers.0", "block.layers.1", "block.layers.2"]


def test_the_forward_pass_is_the_same(results: dict[str, Any]) -> None:
    sharded, whole = results["sharded"]["video"], results["whole"]["video"]
    assert whole.std() > 0.1
    torch.testing.assert_close(sharded, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["gradients", "weights"])
def test_gradients_and_the_next_weights_are_the_same(results: dict[str, Any], kind: str) -> None:
    """Both ranks have the same pack, so that their mean gradient is that of one."""
    sharded, whole = results["sharded"][kind], results["whole"][kind]
    assert sharded.keys() == whole.keys() and len(whole) > 30
    for name, tensor in whole.items():
        torch.testing.assert_close(sharded[name], tensor, atol=1e-5, rtol=1e-5, msg=name)
    assert all(tensor.abs().max() > 0 for tensor in whole.values())


@pytest.mark.parametrize("activation_checkpointing", ["full", "selective"])
def test_sharded_layers_may_recompute(results: dict[str, Any], activation_checkpointing: str) -> None:
    kept, recomputed = results["sharded"], results[activation_checkpointing]
    for name, gradient in kept["gradients"].items():
        torch.testing.assert_close(recomputed["gradients"][name], gradient, atol=1e-6, rtol=1e-6, msg=name)
    assert torch.equal(recomputed["video"], kept["video"])
