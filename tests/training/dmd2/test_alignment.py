"""Implicit distribution alignment against its formula."""

from __future__ import annotations

import pytest
import torch

from hh_train.training.dmd2.alignment import ImplicitAlignment


def test_the_formula() -> None:
    critic = [torch.tensor([1.0, 2.0]), torch.tensor([[4.0]])]
    student = [torch.tensor([3.0, 0.0]), torch.tensor([[-4.0]])]
    ImplicitAlignment(retained=0.75)(critic, student)
    assert critic[0].tolist() == [1.5, 1.5] and critic[1].tolist() == [[2.0]]
    assert student[0].tolist() == [3.0, 0.0]


def test_repeated_it_approaches_a_student_that_stands_still() -> None:
    critic, student = [torch.tensor([1.0])], [torch.tensor([0.0])]
    for _ in range(10):
        ImplicitAlignment(retained=0.9)(critic, student)
    assert float(critic[0]) == pytest.approx(0.9**10)


@pytest.mark.parametrize("retained", [-0.1, 1.1])
def test_impossible_shares(retained: float) -> None:
    with pytest.raises(ValueError, match=r"wanted one in \[0, 1\]"):
        ImplicitAlignment(retained=retained)
