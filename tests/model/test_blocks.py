"""Activations by their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from hh_train.model.blocks import GELU7, SwiGLU7


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(("u", "z"), [(-3.0, -3.0), (2.0, 2.0), (50.0, 7.0)])
def test_gelu7(u: float, z: float) -> None:
    torch.testing.assert_close(GELU7()(torch.tensor([[u]])), torch.tensor([[z * sigmoid(1.702 * z)]]))


@pytest.mark.parametrize(
    ("gate", "linear", "z", "l"), [(2.0, 3.0, 2.0, 3.0), (9.0, -9.0, 7.0, -7.0), (-9.0, 9.0, -9.0, 7.0)]
)
def test_swiglu7_reads_interleaved_rows(gate: float, linear: float, z: float, l: float) -> None:  # noqa: E741
    expected = z * sigmoid(1.702 * z) * (l + 1)
    torch.testing.assert_close(SwiGLU7()(torch.tensor([[gate, linear]])), torch.tensor([[expected]]))
