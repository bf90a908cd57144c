from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hh_train.runtime.distributed import (
    all_reduce_sum,
    barrier,
    is_rank_zero,
    own_device,
    rank,
    use_own_device,
    world_size,
)


def test_one_process_is_its_own_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    values = torch.tensor([1.0, 2.0])
    assert all_reduce_sum(values) is values
    assert (rank(), world_size(), is_rank_zero()) == (0, 1, True)
    barrier()


@pytest.mark.parametrize("variable", ["RANK", "LOCAL_RANK"])
def test_the_launcher_tells_the_rank_before_there_is_a_group(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "1")
    assert not is_rank_zero()


@pytest.mark.parametrize(("variable", "number", "wanted"), [("LOCAL_RANK", "3", 3), ("SLURM_LOCALID", "5", 1)])
def test_each_process_of_a_machine_has_its_own_accelerator(
    monkeypatch: pytest.MonkeyPatch, variable: str, number: str, wanted: int
) -> None:
    chosen: list[torch.device] = []
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv(variable, number)
    use_own_device()
    assert chosen == [own_device()] == [torch.device("cuda", wanted)]


def test_without_accelerators_it_is_the_processor() -> None:
    if not torch.cuda.is_available():
        assert own_device() == torch.device("cpu")
        use_own_device()


SCRIPT = """
import sys
import torch, torch.distributed as dist
from hh_train.runtime.distributed import all_reduce_sum, barrier, is_rank_zero, rank, world_size

own, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=own, world_size=2)
values = torch.tensor([1.0 + own, 10.0])
total = all_reduce_sum(values)
barrier()
assert values.tolist() == [1.0 + own, 10.0]
print(rank(), world_size(), is_rank_zero(), total.tolist())
dist.destroy_process_group()
"""


def test_two_processes_sum_their_values(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, str(own), str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for own in range(2)
    ]
    answers = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert answers == ["0 2 True [3.0, 20.0]", "1 2 False [3.0, 20.0]"]
