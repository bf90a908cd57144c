"""Opening networks by path, and telling them apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from hh_train.metrics.networks import file_fingerprint, load_torchscript, load_transformers, weights_fingerprint


class Doubler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x


def test_a_scripted_network_runs_without_gradients(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(Doubler()), tmp_path / "net.pt")
    answer = load_torchscript(tmp_path / "net.pt")(torch.ones(3))
    assert answer.tolist() == [2.0, 2.0, 2.0]
    assert not answer.requires_grad


def test_what_is_no_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no file"):
        load_torchscript(tmp_path / "missing.pt")
    torch.save(Doubler().state_dict(), tmp_path / "state.pt")
    with pytest.raises(ValueError, match="holds no TorchScript"):
        load_torchscript(tmp_path / "state.pt")
    with pytest.raises(ValueError, match="cannot be opened as a ViTModel"):
        load_transformers("ViTModel", str(tmp_path))


def test_fingerprints_follow_content(tmp_path: Path) -> None:
    first, second = Doubler(), Doubler()
    assert weights_fingerprint(first) == weights_fingerprint(second)
    nn.init.constant_(second.factor, 3.0)
    assert weights_fingerprint(first) != weights_fingerprint(second)
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"two")
    assert file_fingerprint(tmp_path / "a") != file_fingerprint(tmp_path / "b")
    with pytest.raises(ValueError, match="is no file"):
        file_fingerprint(tmp_path / "c")
