"""The distribution-matching loss against its formulas."""

from __future__ import annotations

import pytest
import torch

from hh_train.training.dmd2.losses import (
    NORMALIZER_FLOOR,
    Distance,
    distribution_matching_gradient,
    distribution_matching_loss,
)

CLIP = torch.tensor([0, 0, 0, 1, 1])
COUNTED = torch.tensor([True, True, False, True, True])


@pytest.fixture
def states() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(5, 4, generator=generator) for _ in range(3))


def test_gradient_identity(states: tuple[torch.Tensor, ...]) -> None:
    """The derivative of the mean loss is gradient / number of elements."""
    generated = states[0].requires_grad_()
    direction = states[1]
    distribution_matching_loss(generated, direction).mean().backward()
    torch.testing.assert_close(generated.grad, direction / direction.numel())


def test_distance_by_hand(states: tuple[torch.Tensor, ...]) -> None:
    generated, teacher, _ = states
    distance = Distance.between(generated, teacher, COUNTED, CLIP, num_clips=2)
    for clip, tokens in ((0, [0, 1]), (1, [3, 4])):
        assert float(distance.mean[clip]) == pytest.approx(float((generated[tokens] - teacher[tokens]).abs().mean()))
        assert distance.count[clip] == 4 * len(tokens)


def test_a_sum_of_distances_is_that_of_all_elements(states: tuple[torch.Tensor, ...]) -> None:
    generated, teacher, other = states
    narrow = Distance.between(generated[:, :1], other[:, :1], COUNTED, CLIP, num_clips=2)
    both = Distance.between(generated, teacher, COUNTED, CLIP, num_clips=2) + narrow
    elements = torch.cat([(generated - teacher)[:2].abs().flatten(), (generated - other)[:2, 0].abs()])
    assert float(both.mean[0]) == pytest.approx(float(elements.mean()))


def test_uncounted_tokens_and_clips_without_any_leave_the_normalizer_alone(states: tuple[torch.Tensor, ...]) -> None:
    generated, teacher, _ = states
    wild = teacher.clone()
    wild[2] = 1e6
    plain, changed = (Distance.between(generated, t, COUNTED, CLIP, num_clips=3) for t in (teacher, wild))
    assert torch.equal(plain.mean, changed.mean)
    assert plain.mean[2] == NORMALIZER_FLOOR


def test_direction_by_hand(states: tuple[torch.Tensor, ...]) -> None:
    _, critic, teacher = states
    normalizer = torch.tensor([2.0, 4.0])
    direction = distribution_matching_gradient(critic, teacher, normalizer, CLIP)
    torch.testing.assert_close(direction, (critic - teacher) / torch.tensor([2.0, 2.0, 2.0, 4.0, 4.0])[:, None])


def test_small_differences_of_large_values_survive() -> None:
    """In fp32 the difference of these would be off by a tenth."""
    critic = torch.full((1, 1), 1000.0, dtype=torch.float64) + 1e-4
    teacher = torch.full((1, 1), 1000.0, dtype=torch.float64)
    direction = distribution_matching_gradient(critic, teacher, torch.ones(1), torch.tensor([0]))
    assert float(direction) == pytest.approx(1e-4, rel=1e-6)


def test_values_that_are_not_finite_become_zero() -> None:
    critic = torch.tensor([[float("inf"), float("nan"), 3.0]])
    direction = distribution_matching_gradient(critic, torch.zeros(1, 3), torch.ones(1), torch.tensor([0]))
    assert direction.tolist() == [[0.0, 0.0, 3.0]]


def test_the_step_leads_from_the_critic_to_the_teacher() -> None:
    """A student that sits where the critic says must move to where the teacher says."""
    x = torch.zeros(1, 1, requires_grad=True)
    direction = distribution_matching_gradient(
        torch.tensor([[0.0]]), torch.tensor([[1.0]]), torch.ones(1), torch.tensor([0])
    )
    distribution_matching_loss(x, direction).sum().backward()
    assert x.grad.item() < 0  # descending moves x up, to the teacher's 1
