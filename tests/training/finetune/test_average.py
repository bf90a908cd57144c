"""The average of what is trained."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from hh_train.training.ema import exponential_moving_average
from hh_train.training.finetune.average import TrainedAverage


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 300), nn.Linear(300, 2))
    model[0].requires_grad_(False)
    return model


def train(model: nn.Module, averages: list[object], num_steps: int = 5) -> None:
    for step in range(num_steps):
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step)))
        for average in averages:
            average.update() if isinstance(average, TrainedAverage) else average.update_parameters(model)


def test_it_is_the_average_of_the_whole_model() -> None:
    model = make_model()
    average, whole = TrainedAverage(model, decay=0.9), exponential_moving_average(model, decay=0.9)
    train(model, [average, whole])
    now = [parameter.clone() for parameter in model.parameters()]
    with average.in_place():
        for own, expected in zip(model.parameters(), whole.module.parameters(), strict=True):
            assert torch.equal(own, expected)
        assert not torch.equal(model[1].weight, now[2])
    for own, expected in zip(model.parameters(), now, strict=True):
        assert torch.equal(own, expected)


def test_weights_come_back_after_an_error() -> None:
    model = make_model()
    average = TrainedAverage(model, decay=0.9)
    train(model, [average])
    before = model[1].weight.clone()
    with pytest.raises(RuntimeError), average.in_place():
        raise RuntimeError
    assert torch.equal(model[1].weight, before)


def test_frozen_parts_are_not_copied_and_the_model_not_saved() -> None:
    average = TrainedAverage(make_model(), decay=0.9)
    numbers = sum(tensor.numel() for tensor in average.state_dict().values())
    assert numbers == 600 + 2 + 1  # the second layer, and the number of updates
    assert not any(parameter.requires_grad for parameter in average.parameters())


def test_it_goes_on_where_it_was_saved() -> None:
    model = make_model()
    average = TrainedAverage(model, decay=0.9)
    train(model, [average], num_steps=3)
    file = io.BytesIO()
    torch.save((model.state_dict(), average.state_dict()), file)
    train(model, [average], num_steps=2)
    other = make_model()
    resumed = TrainedAverage(other, decay=0.9)
    file.seek(0)
    saved_model, saved_average = torch.load(file)
    other.load_state_dict(saved_model)
    resumed.load_state_dict(saved_average)
    train(other, [resumed], num_steps=2)
    for own, expected in zip(resumed.state_dict().values(), average.state_dict().values(), strict=True):
        assert torch.equal(own, expected)


def test_nothing_to_average() -> None:
    with pytest.raises(ValueError, match="no trainable parameters"):
        TrainedAverage(make_model().requires_grad_(False), decay=0.9)
