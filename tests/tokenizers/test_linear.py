"""Principal components of data whose components are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hh_train.tokenizers.linear import LinearBasis

SPREADS = (4.0, 2.0, 1.0, 0.5)


def known_data(num_rows: int = 20_000) -> tuple[Tensor, Tensor]:
    """Rows with the spreads above along four known directions of eight, about a mean of 3; and the directions."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q[:4]
    coefficients = torch.randn(num_rows, 4, generator=generator) * torch.tensor(SPREADS)
    return coefficients @ directions + 3.0, directions


def fitted(whitening: float, num_channels: int = 4) -> LinearBasis:
    basis = LinearBasis(num_features=8, num_channels=num_channels, whitening=whitening)
    basis.fit(known_data()[0].split(777))
    return basis


def test_finds_the_known_directions_in_the_order_of_their_spread() -> None:
    alignment = (fitted(0.0).components @ known_data()[1].T).abs()
    torch.testing.assert_close(alignment, torch.eye(4), atol=0.03, rtol=0)


def test_the_largest_entry_of_a_component_is_positive() -> None:
    components = fitted(0.5).components
    assert (components.gather(1, components.abs().argmax(1, keepdim=True)) > 0).all()


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_whitening_sets_the_spread_of_the_channels(whitening: float) -> None:
    latents = fitted(whitening).encode(known_data()[0])
    wanted = torch.tensor(SPREADS) ** (1 - whitening)
    wanted = wanted / wanted.square().mean().sqrt()
    torch.testing.assert_close(latents.std(0), wanted, rtol=0.03, atol=0)
    torch.testing.assert_close(latents.mean(0), torch.zeros(4), atol=1e-3, rtol=0)


@pytest.mark.parametrize("whitening", [0.0, 0.5, 1.0])
def test_data_inside_the_basis_comes_back(whitening: float) -> None:
    rows = known_data(50)[0]
    basis = fitted(whitening)
    torch.testing.assert_close(basis.decode(basis.encode(rows)), rows, atol=1e-2, rtol=0)


def test_what_is_lost_is_what_the_left_out_components_hold() -> None:
    rows = known_data()[0]
    basis = fitted(0.5, num_channels=2)
    lost = (basis.decode(basis.encode(rows)) - rows).square().sum(1).mean()
    assert float(lost) == pytest.approx(1.0**2 + 0.5**2, rel=0.03)


def test_batches_of_any_size_give_the_same_basis() -> None:
    rows = known_data(500)[0]
    bases = [LinearBasis(num_features=8, num_channels=4, whitening=0.5) for _ in range(2)]
    bases[0].fit([rows])
    bases[1].fit(rows.split(7))
    torch.testing.assert_close(bases[0].components, bases[1].components, atol=1e-4, rtol=0)
    torch.testing.assert_close(bases[0].scale, bases[1].scale)


@pytest.mark.parametrize(("rows", "message"), [(torch.zeros(0, 8), "0 samples"), (torch.ones(5, 8), "alike")])
def test_needs_data_that_varies(rows: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinearBasis(num_features=8, num_channels=4, whitening=0.5).fit([rows])


def test_components_without_spread_stay_finite() -> None:
    basis = LinearBasis(num_features=8, num_channels=8, whitening=1.0)
    basis.fit([known_data(200)[0]])
    assert basis.is_fitted
    assert basis.encode(known_data(200)[0]).isfinite().all()


@pytest.mark.parametrize("arguments", [{"num_channels": 9}, {"num_channels": 0}, {"whitening": 1.5}])
def test_rejects_impossible_settings(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="wanted"):
        LinearBasis(**{"num_features": 8, "num_channels": 4, "whitening": 0.5, **arguments})
