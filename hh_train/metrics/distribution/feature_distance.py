"""Distances between the features of generated and of real clips, as metrics over any number of processes.

Every row is kept with the clip it comes from: a clip that a sampler has repeated counts once, an extractor may give
several rows a clip, and any number of processes gives the same number. The interval is a jackknife that leaves out
groups of generated clips (Efron and Tibshirani, 1993, chapter 11); the reference counts as given. A bootstrap would not
do: clips that it draws twice are at distance zero from themselves. In simulations the interval covers 95 % or more;
Fréchet's is twice as wide as it need be where vectors are longer than the set has clips.
"""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from scipy.special import stdtrit
from torch import Tensor
from torchmetrics import Metric

from hh_train.metrics.clip_metric import clip_id
from hh_train.metrics.distribution.distances import (
    fit_gaussian,
    gaussian_distance,
    kernel_sums,
    median_distance,
)

_MAX_GROUPS = 20
_TAIL = 0.025


class FeatureSet(NamedTuple):
    """Features of a set of clips in the order of their ids."""

    clips: Int[Tensor, " n"]
    """The clip of each row, 0, 1, ..."""
    rows: Float[Tensor, "n D"]
    ids: Int[Tensor, " clips"]

    @property
    def num_clips(self) -> int:
        return self.ids.shape[0]

    def fingerprint(self) -> str:
        """Of the clips and of their features."""
        digest = hashlib.sha256(self.ids.numpy().tobytes())
        digest.update(self.clips.numpy().tobytes())
        digest.update(self.rows.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


class DistanceScore(NamedTuple):
    """A distance with all that another must share to be compared with it.

    A tuple, since torchmetrics walks through what `compute` returns and takes no frozen dataclass.
    """

    value: float | None
    """None where there are too few clips."""
    low: float | None
    """Of the 95 % interval over generated clips."""
    high: float | None
    num_clips: int
    num_rows: int
    num_reference_clips: int
    num_reference_rows: int
    reference: str
    """Fingerprint of the real clips and their features."""
    extractor: str
    """Fingerprint of what made the features."""
    num_failed: int = 0
    """Generated clips without features."""


def require_comparable(first: DistanceScore, second: DistanceScore) -> None:
    """Refuses two distances that differ in more than the generated clips.

    Raises:
        ValueError: for other numbers of clips or rows, another reference or another extractor.
    """
    names = ("num_clips", "num_rows", "num_reference_clips", "num_reference_rows", "reference", "extractor")
    different = [f"{n}: {getattr(first, n)} and {getattr(second, n)}" for n in names if _differ(first, second, n)]
    if different:
        raise ValueError(
            f"these distances cannot be compared, since they differ in {'; '.join(different)}. A distance depends on "
            "all of these: measure both on the same number of clips, with one reference and one extractor"
        )


def _differ(first: DistanceScore, second: DistanceScore, name: str) -> bool:
    return bool(getattr(first, name) != getattr(second, name))


class FeatureDistance(Metric):
    """Collects features of generated and of real clips, and compares the two sets.

    Args:
        dim: length of a feature vector. A process without clips has to know it, too.
        extractor: fingerprint of what makes the features; goes into the score.
        num_clips: how many generated clips are compared, taken in an order that has nothing to do with their names;
            None takes all. Distances of different numbers must not be compared.
    """

    full_state_update = False
    least: ClassVar[float] = -math.inf
    """That the distance can be; an interval ends there."""

    ids: list[Tensor]
    places: list[Tensor]
    rows: list[Tensor]
    failed: list[Tensor]

    def __init__(self, *, dim: int, extractor: str = "", num_clips: int | None = None) -> None:
        super().__init__()
        if dim < 1 or (num_clips is not None and num_clips < 2):
            raise ValueError(f"got dim {dim} and num_clips {num_clips}; wanted 1 or more, and 2 or more")
        self.dim, self.extractor, self.num_clips = dim, extractor, num_clips
        for name in ("ids", "places", "rows", "failed"):
            self.add_state(name, default=[], dist_reduce_fx="cat")
        self._seed_states()

    def reset(self) -> None:
        super().reset()
        self._seed_states()

    def _seed_states(self) -> None:
        """Puts an empty tensor into each list: a gather over processes needs a tensor from every one of them."""
        none = torch.zeros(0, dtype=torch.int64)
        self._append(none, torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, self.dim, dtype=torch.float64))
        self.failed.append(none.to(self.device))

    def _append(self, ids: Tensor, places: Tensor, rows: Tensor) -> None:
        self.ids.append(ids.to(self.device))
        self.places.append(places.to(self.device))
        self.rows.append(rows.to(self.device, torch.float64))

    def update(self, key: str, rows: Float[Tensor, "rows D"], *, real: bool) -> None:
        """Adds a clip's features.

        Raises:
            ValueError: for vectors of another length, none at all, or numbers that are not finite.
        """
        if rows.shape[1] != self.dim or not rows.shape[0]:
            raise ValueError(f"clip {key!r} has features {tuple(rows.shape)}; wanted at least one row of {self.dim}")
        if not bool(rows.isfinite().all()):
            raise ValueError(f"clip {key!r} has features that are not finite; its media or the extractor is broken")
        count = rows.shape[0]
        places = torch.stack((torch.arange(count), torch.full((count,), int(real))), dim=1)
        self._append(torch.full((count,), clip_id(key)), places, rows.detach())

    def record_failure(self, key: str) -> None:
        """Adds a generated clip that has no features: it is counted."""
        self.failed.append(torch.tensor([clip_id(key)], device=self.device))
        self._update_count += 1
        self._computed = None

    def collected(self, *, real: bool) -> FeatureSet:
        """The features of one side, each clip once, in the order of the clips' ids."""
        ids, places, rows = (_concatenate(state).cpu() for state in (self.ids, self.places, self.rows))
        of_side = places[:, 1] == int(real)
        ids, within, rows = ids[of_side], places[of_side, 0], rows[of_side]
        order = torch.argsort(within, stable=True)
        order = order[torch.argsort(ids[order], stable=True)]
        ids, within, rows = ids[order], within[order], rows[order]
        first = torch.ones_like(ids, dtype=torch.bool)
        first[1:] = (ids[1:] != ids[:-1]) | (within[1:] != within[:-1])
        unique, clips = torch.unique_consecutive(ids[first], return_inverse=True)
        return FeatureSet(clips=clips, rows=rows[first], ids=unique)

    def compute(self) -> DistanceScore:
        """The distance.

        Raises:
            ValueError: there are fewer generated clips than `num_clips`.
        """
        generated, real = self._generated(), self.collected(real=True)
        low = high = value = None
        if generated.num_clips >= 2 and real.num_clips >= 2:
            groups = generated.clips % min(_MAX_GROUPS, generated.num_clips)
            value, low, high = jackknife(*self.leave_out(generated, groups, real))
            low = None if low is None else max(low, self.least)
        return DistanceScore(
            value=value,
            low=low,
            high=high,
            num_clips=generated.num_clips,
            num_rows=generated.rows.shape[0],
            num_reference_clips=real.num_clips,
            num_reference_rows=real.rows.shape[0],
            reference=real.fingerprint(),
            extractor=self.extractor,
            num_failed=_concatenate(self.failed).unique().numel(),
        )

    def _generated(self) -> FeatureSet:
        found = self.collected(real=False)
        wanted = self.num_clips
        if wanted is None:
            return found
        if found.num_clips < wanted:
            raise ValueError(
                f"got {found.num_clips} generated clips with features; wanted {wanted}: generate more, or lower "
                "num_clips for all that are compared"
            )
        kept = found.clips < wanted
        return FeatureSet(clips=found.clips[kept], rows=found.rows[kept], ids=found.ids[:wanted])

    @abstractmethod
    def leave_out(
        self, generated: FeatureSet, groups: Int[Tensor, " n"], real: FeatureSet
    ) -> tuple[float, list[float]]:
        """The distance, and the distances without each of the groups of generated rows."""


class FrechetDistance(FeatureDistance):
    """Fréchet distance of Gaussians: FVD or FAD, by the features. It falls with the number of clips, so that only equal
    numbers compare.
    """

    least: ClassVar[float] = 0.0

    def leave_out(
        self, generated: FeatureSet, groups: Int[Tensor, " n"], real: FeatureSet
    ) -> tuple[float, list[float]]:
        reference = fit_gaussian(real.rows)

        def distance(rows: Tensor) -> float:
            return gaussian_distance(fit_gaussian(rows), reference)

        without = [generated.rows[groups != group] for group in range(int(groups.max()) + 1)]
        return distance(generated.rows), [distance(rows) for rows in without if rows.shape[0] >= 2]


class KernelDistance(FeatureDistance):
    """Squared maximum mean discrepancy: KVD (polynomial kernel) or KAD (Gaussian kernel, as wide as the median distance
    within the reference). Unbiased over clips, and therefore at times below zero.

    Args:
        dim, extractor, num_clips: as of `FeatureDistance`.
        kernel: of the two.
    """

    def __init__(
        self,
        *,
        dim: int,
        extractor: str = "",
        num_clips: int | None = None,
        kernel: Literal["polynomial", "gaussian"] = "polynomial",
    ) -> None:
        super().__init__(dim=dim, extractor=extractor, num_clips=num_clips)
        self.kernel = kernel

    def leave_out(
        self, generated: FeatureSet, groups: Int[Tensor, " n"], real: FeatureSet
    ) -> tuple[float, list[float]]:
        bandwidth = median_distance(real.rows) if self.kernel == "gaussian" else None
        count = int(groups.max()) + 1
        alone = torch.zeros_like(real.clips)
        within = kernel_sums(
            generated.rows, generated.rows, first_groups=groups, second_groups=groups, num_groups=(count, count),
            bandwidth=bandwidth, first_clips=generated.clips, second_clips=generated.clips,
        )  # fmt: skip
        across = kernel_sums(
            generated.rows, real.rows, first_groups=groups, second_groups=alone, num_groups=(count, 1),
            bandwidth=bandwidth,
        )  # fmt: skip
        reference = kernel_sums(
            real.rows, real.rows, first_groups=alone, second_groups=alone, num_groups=(1, 1), bandwidth=bandwidth,
            first_clips=real.clips, second_clips=real.clips,
        )  # fmt: skip
        of_reference = float(reference.sums / reference.counts)

        def distance(kept: Tensor) -> float:
            own = within.sums[kept][:, kept].sum() / within.counts[kept][:, kept].sum()
            cross = across.sums[kept].sum() / across.counts[kept].sum()
            return float(own - 2 * cross) + of_reference

        everything = torch.ones(count, dtype=torch.bool)
        without = [everything.clone().index_fill_(0, torch.tensor([group]), False) for group in range(count)]
        enough = [kept for kept in without if float(within.counts[kept][:, kept].sum()) > 0]
        return distance(everything), [distance(kept) for kept in enough]


def jackknife(value: float, without: Sequence[float]) -> tuple[float, float | None, float | None]:
    """The value and its 95 % interval, from the values without each of several groups of equal size (Student's t).
    None for the ends with fewer than two groups.
    """
    count = len(without)
    if count < 2:
        return value, None, None
    values = torch.tensor(without, dtype=torch.float64)
    error = float(((count - 1) / count * (values - values.mean()).square().sum()).sqrt())
    reach = float(stdtrit(count - 1, 1 - _TAIL)) * error
    return value, value - reach, value + reach


def distance_difference(first: FeatureDistance, second: FeatureDistance) -> tuple[float, float | None, float | None]:
    """First distance minus second with its 95 % interval, over the prompts that both have generated.

    The prompts are left out of both in the same groups, so that what they share cancels.

    Raises:
        ValueError: for other clips, another reference or another extractor, or too few clips.
    """
    require_comparable(first.compute(), second.compute())
    ours, theirs, real = first._generated(), second._generated(), first.collected(real=True)
    if not torch.equal(ours.ids, theirs.ids) or ours.num_clips < 2 or real.num_clips < 2:
        raise ValueError("got sets of different generated clips, or fewer than 2; wanted the same prompts in both")
    count = min(_MAX_GROUPS, ours.num_clips)
    value_a, without_a = first.leave_out(ours, ours.clips % count, real)
    value_b, without_b = second.leave_out(theirs, theirs.clips % count, real)
    return jackknife(value_a - value_b, [a - b for a, b in zip(without_a, without_b, strict=True)])


def _concatenate(state: list[Tensor] | Tensor) -> Tensor:
    """After a synchronization torchmetrics leaves a tensor where it found a list."""
    return torch.cat(state) if isinstance(state, list) else state
