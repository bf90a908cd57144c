"""Schedule and groups."""

from __future__ import annotations

import pytest
import torch

from hh_train.training.optim import AdamWRecipe


def rates(recipe: AdamWRecipe, num_steps: int) -> list[float]:
    optimizer, schedule = recipe.build([torch.nn.Parameter(torch.zeros(2, 2))], num_steps=num_steps)
    found = []
    for _ in range(num_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_warm_up_then_cosine() -> None:
    found = rates(AdamWRecipe(learning_rate=1.0, warmup_steps=4, final_share=0.1), 14)
    assert found[:4] == [0.25, 0.5, 0.75, 1.0]
    assert found[9] == pytest.approx(0.55)  # half-way down
    assert found == sorted(found[:4]) + sorted(found[4:], reverse=True)


def test_constant_without_decay() -> None:
    assert set(rates(AdamWRecipe(learning_rate=0.5), 5)) == {0.5}


def test_only_trainable_matrices_decay() -> None:
    matrix, vector, frozen = (
        torch.nn.Parameter(torch.ones(2, 2)),
        torch.nn.Parameter(torch.ones(2)),
        torch.nn.Parameter(torch.ones(2, 2)),
    )
    frozen.requires_grad_(False)
    optimizer, _ = AdamWRecipe(learning_rate=0.1, weight_decay=0.5).build([matrix, vector, frozen], num_steps=1)
    for parameter in (matrix, vector):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert matrix[0, 0].item() == pytest.approx(0.95) and vector[0].item() == 1 and frozen[0, 0].item() == 1
