"""The average against its recursion."""

from __future__ import annotations

import pytest
import torch

from hh_train.training.ema import exponential_moving_average


def test_recursion_with_its_ramp() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    average = exponential_moving_average(model, decay=0.25)
    expected = None
    for step, value in enumerate([1.0, 2.0, 4.0, 8.0]):
        model.weight.data.fill_(value)
        average.update_parameters(model)
        decay = min(0.25, (1 + step) / (10 + step))
        expected = value if expected is None else decay * expected + (1 - decay) * value
    assert average.module.weight.item() == pytest.approx(expected)


def test_the_average_does_not_train() -> None:
    assert not any(p.requires_grad for p in exponential_moving_average(torch.nn.Linear(2, 2), decay=0.9).parameters())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_impossible_decay(decay: float) -> None:
    with pytest.raises(ValueError, match=r"lies in \[0, 1\)"):
        exponential_moving_average(torch.nn.Linear(1, 1), decay=decay)
