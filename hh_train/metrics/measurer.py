"""What measures clips: each measurer adds its values to a clip that is decoded, and whose face is found, once for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor

from hh_train.metrics.clip_metric import Row
from hh_train.metrics.faces.mouth import MouthTrack, track_mouth
from hh_train.metrics.measure import Measure
from hh_train.types import Clip


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A decoded clip of one system, with what it was to say.

    Not hashable by content, alive for one clip only: what several measurers need is computed at the first call.
    """

    key: str
    clip: Clip
    """Sound at 16 kHz."""
    transcript: str | None
    """The words that were to be spoken; None where nothing says."""
    language: str | None
    fields: Mapping[str, Any] = field(default_factory=dict)
    """The clip's json: generation cost, latent statistics; empty where it has none."""

    @cached_property
    def mouth(self) -> MouthTrack:
        """The mouth in every frame. Raises ValueError where there is none."""
        return track_mouth(self.clip.frames)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one measurer says of one clip."""

    values: Mapping[str, Row | float | None] = field(default_factory=dict)
    """By measure's name; None (or absent) where the quantity has no meaning for the clip, and `notes` says why."""
    notes: Sequence[str] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON for the report: what was heard, a curve to draw. By name, unique over all measurers."""
    features: Mapping[str, Float[Tensor, "rows D"]] = field(default_factory=dict)
    """For distances between sets of clips: by extractor's name, one row or several a clip."""


class Measurer(Protocol):
    """Measures clips one by one. Its arguments are keyword-only and typed: a configuration builds it."""

    @property
    def measures(self) -> Sequence[Measure]:
        """What it can say, in the order of the table."""
        ...

    def protocol(self) -> Mapping[str, str]:
        """What two evaluations must share for the values to be comparable: versions, hashes of weights, settings."""
        ...

    def measure(self, sample: Sample) -> Measured:
        """Measures one clip.

        Raises:
            ValueError: for a fault of the clip that leaves nothing to measure; its text becomes the clip's note.
        """
        ...
