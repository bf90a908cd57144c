"""A space in which clips of one person lie together: centered between people, and even in what changes within one.

What changes from clip to clip of one person (crop, light, words) says nothing of who it is. Directions in which the
clips of the same people differ are therefore shortened: within-class covariance normalization (Hatch, Kajarekar and
Stolcke, Interspeech 2006), the correlations shrunk towards none, since there are few clips.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

SHRINKAGE = 0.1
_LEAST_SPREAD = 1e-3
"""Spreads within people smaller than this share of the largest count as that."""


@dataclass(frozen=True, kw_only=True)
class People:
    """Several people's clips as unit vectors."""

    clips: Mapping[str, Float[Tensor, "n D"]]
    """By person, in the order given."""
    center: Float[Tensor, " D"]
    whitening: Float[Tensor, "D D"]

    def likeness(self, embedding: Float[Tensor, " D"], person: str, *, without: int | None = None) -> Float[Tensor, ""]:
        """Cosine with the mean of a person's clips, -1 to 1.

        Args:
            embedding: of a clip.
            person: one of `clips`.
            without: number of a clip of the person that is passed over: the one that is measured.
        """
        clips = self.clips[person]
        if without is not None:
            clips = torch.cat((clips[:without], clips[without + 1 :]))
        unit = _units((embedding.double() - self.center) @ self.whitening)
        return _units(clips.mean(dim=0)) @ unit


def enrol(embeddings: Mapping[str, Float[Tensor, "_ D"]]) -> People:
    """The space of some people.

    Args:
        embeddings: a row a clip, by person.

    Raises:
        ValueError: fewer than two people, or all of their clips are alike.
    """
    if len(embeddings) < 2:
        raise ValueError(f"got clips of {len(embeddings)} people; wanted two or more, to tell them apart")
    rows = {person: clips.double() for person, clips in embeddings.items()}
    means = torch.stack([clips.mean(dim=0) for clips in rows.values()])
    center = means.mean(dim=0)
    if float((means - center).abs().max()) <= 1e-12 * max(float(center.abs().max()), 1.0):
        raise ValueError("the embeddings of all people are alike; wanted an embedder that tells people apart")
    whitening = _whitening(torch.cat([clips - clips.mean(dim=0) for clips in rows.values()]), len(rows))
    return People(
        clips={person: _units((clips - center) @ whitening) for person, clips in rows.items()},
        center=center,
        whitening=whitening,
    )


def _whitening(within: Float[Tensor, "n D"], num_people: int) -> Float[Tensor, "D D"]:
    """Of what is left when each person's mean is taken away; the identity where each has a single clip."""
    count, dim = within.shape
    spread = (within.square().sum(dim=0) / max(count - num_people, 1)).sqrt()
    if not bool((spread > 0).any()):
        return torch.eye(dim, dtype=torch.float64)
    scaled = within / (spread := spread.clamp(min=_LEAST_SPREAD * float(spread.max())))
    correlations = scaled.T @ scaled / max(count - num_people, 1)
    shrunk = (1 - SHRINKAGE) * correlations + SHRINKAGE * torch.eye(dim, dtype=torch.float64)
    values, vectors = torch.linalg.eigh(shrunk)
    even: Tensor = (vectors / values.sqrt()) @ vectors.T / spread[:, None]
    return even


def _units(rows: Float[Tensor, "*n D"]) -> Float[Tensor, "*n D"]:
    units: Tensor = rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    return units
