"""The distribution-matching loss against its formulas."""

from __future__ import annotations

import pytest
import torch

from hh_train.training.dmd2.losses import distribution_matching_gradient, distribution_matching_loss

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


def test_direction_by_hand(states: tuple[torch.Tensor, ...]) -> None:
    generated, critic, teacher = states
    ours = distribution_matching_gradient(generated, critic, teacher, COUNTED, CLIP, num_clips=2)
    for clip, tokens in ((0, [0, 1]), (1, [3, 4])):
        normalizer = (generated[tokens] - teacher[tokens]).abs().mean()
        torch.testing.assert_close(ours[tokens], (critic[tokens] - teacher[tokens]) / normalizer, msg=f"clip {clip}")


def test_the_scale_of_a_modality_cancels(states: tuple[torch.Tensor, ...]) -> None:
    plain = distribution_matching_gradient(*states, COUNTED, CLIP, num_clips=2)
    scaled = distribution_matching_gradient(*(100 * x for x in states), COUNTED, CLIP, num_clips=2)
    torch.testing.assert_close(plain, scaled)


def test_uncounted_tokens_do_not_move_the_normalizer(states: tuple[torch.Tensor, ...]) -> None:
    generated, critic, teacher = states
    plain = distribution_matching_gradient(generated, critic, teacher, COUNTED, CLIP, num_clips=2)
    wild = teacher.clone()
    wild[2] = 1e6
    changed = distribution_matching_gradient(generated, critic, wild, COUNTED, CLIP, num_clips=2)
    torch.testing.assert_close(plain[COUNTED], changed[COUNTED])


def test_equal_networks_give_no_direction_and_a_perfect_sample_no_infinity(states: tuple[torch.Tensor, ...]) -> None:
    generated, critic, _ = states
    assert distribution_matching_gradient(generated, critic, critic, COUNTED, CLIP, num_clips=2).abs().max() == 0
    assert torch.isfinite(
        distribution_matching_gradient(generated, critic, generated, COUNTED, CLIP, num_clips=2)
    ).all()


def test_the_step_leads_from_the_critic_to_the_teacher() -> None:
    """A student that sits where the critic says must move to where the teacher says."""
    x = torch.zeros(1, 1, requires_grad=True)
    direction = distribution_matching_gradient(
        x, torch.tensor([[0.0]]), torch.tensor([[1.0]]), torch.tensor([True]), torch.tensor([0]), num_clips=1
    )
    distribution_matching_loss(x, direction).sum().backward()
    assert x.grad.item() < 0  # descending moves x up, to the teacher's 1
