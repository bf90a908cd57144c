"""The one convention."""

from __future__ import annotations

import torch

from hh_train.flow.path import clean_from_velocity, noised, velocity


def test_ends_and_slope() -> None:
    clean, noise = torch.randn(2, 3, 4)
    assert torch.equal(noised(clean, noise, 0.0), clean) and torch.equal(noised(clean, noise, 1.0), noise)
    slope = (noised(clean, noise, 0.6) - noised(clean, noise, 0.4)) / 0.2
    torch.testing.assert_close(slope, velocity(clean, noise), atol=1e-5, rtol=1e-5)


def test_the_velocity_leads_back_to_clean() -> None:
    clean, noise = torch.randn(2, 3, 4)
    t = torch.tensor([[0.1], [0.5], [0.9]])
    torch.testing.assert_close(clean_from_velocity(noised(clean, noise, t), velocity(clean, noise), t), clean)
