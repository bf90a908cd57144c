"""The one flow convention: t = 0 is clean, t = 1 is noise, and the velocity points from clean to noise.

    noised = (1 - t) clean + t noise        velocity = d noised / dt = noise - clean

(Rectified flow, Eq. 1 of arXiv:2209.03003, with time reversed.) The whole project uses these functions and words.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def noised(
    clean: Float[Tensor, "*shape"], noise: Float[Tensor, "*shape"], t: Float[Tensor, "*t"] | float
) -> Float[Tensor, "*shape"]:
    """The point at noise level t on the line from clean to noise."""
    return (1 - t) * clean + t * noise


def velocity(clean: Float[Tensor, "*shape"], noise: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """What the model predicts."""
    return noise - clean


def clean_from_velocity(
    x: Float[Tensor, "*shape"], v: Float[Tensor, "*shape"], t: Float[Tensor, "*t"] | float
) -> Float[Tensor, "*shape"]:
    """The clean end of the line through the noised x with velocity v."""
    return x - t * v
