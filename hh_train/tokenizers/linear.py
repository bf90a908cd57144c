"""A linear basis fitted to data: principal components with a choosable amount of whitening."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

SMALLEST_RELATIVE_STD = 1e-4
"""Components weaker than this share of the strongest are scaled as if they had it: they are rounding noise."""


class LinearBasis(nn.Module):
    """Projection of D features to C latent channels and back.

    Channel i is the i-th principal component divided by `std_i ** whitening * g`: with whitening 0 the channels keep
    the spread of the data, with 1 all have the same. The common factor g makes the mean square of the latents 1.
    """

    mean: Tensor
    components: Tensor
    scale: Tensor

    def __init__(self, *, num_features: int, num_channels: int, whitening: float) -> None:
        super().__init__()
        if not 1 <= num_channels <= num_features:
            raise ValueError(
                f"got {num_channels} channels for {num_features} features; wanted between 1 and {num_features}"
            )
        if not 0.0 <= whitening <= 1.0:
            raise ValueError(f"got whitening {whitening}; wanted a number from 0 (keep the spread) to 1 (equal spread)")
        self.whitening = whitening
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("components", torch.zeros(num_channels, num_features))
        self.register_buffer("scale", torch.zeros(num_channels))

    @property
    def num_features(self) -> int:
        return self.components.shape[1]

    @property
    def num_channels(self) -> int:
        return self.components.shape[0]

    @property
    def is_fitted(self) -> bool:
        return bool(self.scale.gt(0).all())

    @torch.no_grad()
    def fit(self, batches: Iterable[Float[Tensor, "_ D"]]) -> None:
        """Sets mean, components and scale from all rows of all batches, in one pass.

        The covariance is accumulated and decomposed in float64. The largest entry of a component is positive.

        Raises:
            ValueError: there are fewer than two rows, or they are all alike.
        """
        total = torch.zeros(self.num_features, dtype=torch.float64)
        moment = torch.zeros(self.num_features, self.num_features, dtype=torch.float64)
        count = 0
        for batch in batches:
            rows = batch.float()
            total += rows.sum(0, dtype=torch.float64)
            moment += rows.T @ rows
            count += rows.shape[0]
        if count < 2:
            raise ValueError(f"got {count} samples to fit a basis to; wanted two at the least: give more clips")
        mean = total / count
        variances, vectors = torch.linalg.eigh(moment / count - torch.outer(mean, mean))
        std = variances.flip(0)[: self.num_channels].clamp_min(0).sqrt()
        if not std[0] > 0:
            raise ValueError(f"all {count} samples to fit a basis to are alike; wanted footage that varies")
        std = std.clamp_min(SMALLEST_RELATIVE_STD * float(std[0]))
        components = vectors.flip(1)[:, : self.num_channels].T
        largest = components.gather(1, components.abs().argmax(1, keepdim=True))
        scale = std**self.whitening
        scale = scale * (std / scale).square().mean().sqrt()
        self.mean.copy_(mean)
        self.components.copy_(components * largest.sign())
        self.scale.copy_(scale)

    def encode(self, features: Float[Tensor, "... D"]) -> Float[Tensor, "... C"]:
        return (features - self.mean) @ (self.components / self.scale[:, None]).T

    def decode(self, latents: Float[Tensor, "... C"]) -> Float[Tensor, "... D"]:
        return latents @ (self.components * self.scale[:, None]) + self.mean
