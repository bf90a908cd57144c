"""Activations by their formulas."""

from __future__ import annotations

import math

import pytest
import torch

from hh_train.model.activation import GELU7, SwiGLU7


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


CHANNELS = torch.tensor(
    [[-40.0, -7.5, -7.0, -1.0], [0.0, 0.5, 6.5, 7.0], [7.0, 7.0, 7.5, -7.5], [40.0, -40.0, -3.0, 2.0]]
)


@pytest.mark.parametrize("activation", [GELU7(), SwiGLU7()])
def test_training_computes_and_differentiates_the_formula(activation: torch.nn.Module) -> None:
    """At and beyond the clamps too. What is compiled, or runs without gradients, is the formula itself."""
    trained, reference = CHANNELS.clone().requires_grad_(), CHANNELS.clone().requires_grad_()
    weight = torch.tensor([1.0, -2.0, 0.5, 3.0])
    output = activation(trained)
    with torch.no_grad():
        torch.testing.assert_close(output.detach(), activation(CHANNELS))
    expected = formula(activation, reference)
    torch.testing.assert_close(output, expected)
    weight = weight[: output.shape[1]]
    (output * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(trained.grad, reference.grad)
    assert torch.equal(trained.detach(), CHANNELS)


def formula(activation: torch.nn.Module, up: torch.Tensor) -> torch.Tensor:
    if isinstance(activation, GELU7):
        z = up.clamp(max=7.0)
        return z * torch.sigmoid(1.702 * z)
    z, l = up[:, ::2].clamp(max=7.0), up[:, 1::2].clamp(-7.0, 7.0)  # noqa: E741
    return z * torch.sigmoid(1.702 * z) * (l + 1)


@pytest.mark.parametrize("activation", [GELU7(), SwiGLU7()])
def test_only_the_input_is_kept_for_the_backward_pass(activation: torch.nn.Module) -> None:
    kept: list[torch.Tensor] = []
    up = CHANNELS.bfloat16().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        output = activation(up)
    assert output.dtype == torch.bfloat16
    assert [x.data_ptr() for x in kept] == [up.data_ptr()]


@pytest.mark.parametrize("activation", [GELU7(), SwiGLU7()])
def test_low_precision_gradients_are_rounded_once(activation: torch.nn.Module) -> None:
    low = (CHANNELS * 0.37).bfloat16().requires_grad_()
    exact = low.detach().float().requires_grad_()
    activation(low).backward(torch.ones_like(activation(low)))
    activation(exact).sum().backward()
    torch.testing.assert_close(low.grad, exact.grad.bfloat16())
