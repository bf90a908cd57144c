"""The cycle of the learning rate, and a training whose optimum is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hh_train.metrics.one_cycle import TrainingProgress, batches_of_like_length, ctc_loss, one_cycle, train_one_cycle


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    rates = [one_cycle(i / 100) for i in range(101)]
    assert max(rates) == rates[20] == 1.0
    assert rates[0] < 0.1 and rates[100] == pytest.approx(0.0)
    assert rates[:21] == sorted(rates[:21]) and rates[20:] == sorted(rates[20:], reverse=True)


def test_a_line_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    line = nn.Linear(1, 1)
    told: list[TrainingProgress] = []

    def next_loss() -> Tensor:
        x = torch.randn(64, 1, generator=generator)
        return (line(x) - (2 * x + 1)).square().mean()

    train_one_cycle(line, next_loss, peak_learning_rate=0.1, max_steps=200, max_seconds=None, report=told.append)
    assert float(line.weight.detach()) == pytest.approx(2, abs=0.1)
    assert float(line.bias.detach()) == pytest.approx(1, abs=0.1)
    assert not line.training
    assert [now.step for now in told] == list(range(1, 201)) and told[-1].fraction == 1.0
    assert told[-1].loss < told[0].loss / 10


def test_seconds_end_it_earlier() -> None:
    line, told = nn.Linear(1, 1), list[TrainingProgress]()
    train_one_cycle(
        line,
        lambda: line(torch.ones(1)).sum(),
        peak_learning_rate=0.0,
        max_steps=10**9,
        max_seconds=0.05,
        report=told.append,
    )
    assert 1 <= told[-1].step < 10**6 and told[-1].seconds >= 0.05


def test_every_item_comes_once_a_pass_beside_its_like() -> None:
    lengths = [5, 90, 7, 88, 6, 91, 300]
    batches = batches_of_like_length(lengths, 3, jitter=1.0, generator=torch.Generator().manual_seed(0))
    for _ in range(4):
        found = [next(batches) for _ in range(3)]
        assert sorted(i for batch in found for i in batch) == list(range(7))
        assert sorted(sorted(lengths[i] for i in batch) for batch in found) == [[5, 6, 7], [88, 90, 91], [300]]


def test_ctc_of_certain_outputs_is_zero() -> None:
    """Two clips of different lengths whose frames name their units without doubt; padding counts for nothing."""

    class Certain(nn.Module):
        def forward(self, padded: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
            return torch.log_softmax(50 * nn.functional.one_hot(padded.long(), 4).float(), dim=-1), lengths

    inputs = [torch.tensor([1, 0, 2]), torch.tensor([3])]
    targets = [torch.tensor([1, 2]), torch.tensor([3])]
    assert float(ctc_loss(Certain(), inputs, targets)) == pytest.approx(0.0, abs=1e-6)
    assert float(ctc_loss(Certain(), inputs, targets[::-1])) > 10
