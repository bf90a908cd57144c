"""Training in one process and in two, once for all tests; a recognizer that hears what it is told to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parent / "two_ranks.py"


def run(strategy: str, folder: Path, *, num_ranks: int) -> Path:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"] if num_ranks > 1 else []
    for training in ("flow_matching", "distillation", "finetuning"):
        done = subprocess.run(
            [sys.executable, *launcher, str(SCRIPT), training, strategy, str(folder)],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="session")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two_ranks.py writes when one process has both clips."""
    return run("auto", tmp_path_factory.mktemp("one_process"), num_ranks=1)


@pytest.fixture(scope="session", params=["ddp", "fsdp"])
def two_ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two_ranks.py writes when each of two ranks has one clip, with whole and with sharded networks."""
    return run(request.param, tmp_path_factory.mktemp(request.param), num_ranks=2)


class Hearing:
    """Hears what it is told to, one answer after the other."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)

    @property
    def languages(self) -> Sequence[str]:
        return ("en",)

    def transcribe(self, waveform: torch.Tensor, language: str) -> str:
        return self.answers.pop(0)

    def fingerprint(self) -> str:
        return "told"


@pytest.fixture
def hearing() -> Callable[..., Hearing]:
    """Makes a recognizer of its answers."""
    return Hearing
