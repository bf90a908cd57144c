"""Features of clips, and distances between the features of sets of clips: FVD, KVD, FAD and KAD."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from torch import Tensor

from hh_train.metrics.distribution.extractors import ClipFeatures
from hh_train.metrics.distribution.feature_distance import (
    DistanceScore,
    FeatureDistance,
    FrechetDistance,
    KernelDistance,
    distance_difference,
)
from hh_train.metrics.distribution.reference import Features, read_reference, write_reference
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurer import Measured, Sample
from hh_train.metrics.networks import file_fingerprint


class DistributionMeasurer:
    """Takes features of pictures and of sound, and compares sets of clips by them.

    Args:
        video: makes the features of FVD and KVD; null leaves both out.
        sound: makes the features of FAD and KAD; null leaves both out.
        num_clips: how many generated clips are compared, in an order that has nothing to do with names; null takes all.
            Distances of different numbers cannot be compared.
        reference: file of real clips' features (`write_reference`) that is compared with; null takes the real clips of
            the evaluation.
    """

    measures: tuple[Measure, ...] = ()
    """Nothing of a single clip."""

    def __init__(
        self,
        *,
        video: ClipFeatures | None = None,
        sound: ClipFeatures | None = None,
        num_clips: int | None = None,
        reference: str | None = None,
    ) -> None:
        self.num_clips, self.reference = num_clips, reference
        self.extractors: dict[str, ClipFeatures] = {
            name: extractor for name, extractor in (("video", video), ("sound", sound)) if extractor is not None
        }

    @property
    def set_measures(self) -> tuple[Measure, ...]:
        return tuple(
            Measure(name=name, title=f"{title} ({extractor.name})", scale=scale, digits=3, better="lower")
            for kind, extractor in self.extractors.items()
            for name, title, scale in _TITLES[kind]
        )

    def protocol(self) -> Mapping[str, str]:
        """The extractors, the number of clips, the reference where it is a file, and the library that computes."""
        reference = "the evaluation's" if self.reference is None else file_fingerprint(self.reference)
        return {
            "torch": version("torch"),
            "num_clips": str(self.num_clips or "all"),
            "reference": reference,
            **self._fingerprints,
        }

    @cached_property
    def _fingerprints(self) -> dict[str, str]:
        return {kind: extractor.fingerprint() for kind, extractor in self.extractors.items()}

    @cached_property
    def _stored(self) -> Mapping[str, Features] | None:
        if self.reference is None:
            return None
        return read_reference(self.reference, extractors=self._fingerprints)

    def write_reference(self, path: str | Path, clips: Mapping[str, Features]) -> Path:
        """Writes the features of real clips, by their keys, for later evaluations; what others have found is left out.

        Raises:
            ValueError: no clip has features.
        """
        own = {
            key: {kind: rows for kind, rows in found.items() if kind in self.extractors} for key, found in clips.items()
        }
        return write_reference(path, own, extractors=self._fingerprints)

    def measure(self, sample: Sample) -> Measured:
        """Takes a clip's features."""
        found: dict[str, Tensor] = {}
        notes: list[str] = []
        for kind, extractor in self.extractors.items():
            try:
                found[kind] = extractor.features(sample.clip)
            except ValueError as error:
                notes.append(f"{kind} features: {error}")
        return Measured(features=found, notes=notes)

    def measure_sets(
        self, generated: Mapping[str, Features], reference: Mapping[str, Features], *, failed: Collection[str] = ()
    ) -> dict[str, DistanceScore]:
        """Distances of the generated clips from the reference.

        Args:
            generated: by the clips' keys. One without the features of an extractor counts as failed for it.
            reference: of the real clips; passed over where the measurer has a file of its own.
            failed: generated clips that could not be read.

        Raises:
            ValueError: there are fewer clips with features than `num_clips`, or the reference is of other extractors.
        """
        filled = self.distances(generated, reference, failed=failed)
        return {name: distance.compute() for name, distance in filled.items()}

    def compare_sets(
        self, first: Mapping[str, Features], second: Mapping[str, Features], reference: Mapping[str, Features]
    ) -> dict[str, tuple[float, float | None, float | None]]:
        """First distance minus second with its 95 % interval, by measure's name, over the clips that have features in
        both.

        Raises:
            ValueError: there are fewer than two of them.
        """
        ours, theirs = (
            self.distances(_common(mine, other), reference) for mine, other in ((first, second), (second, first))
        )
        return {name: distance_difference(ours[name], theirs[name]) for name in ours}

    def distances(
        self, generated: Mapping[str, Features], reference: Mapping[str, Features], *, failed: Collection[str] = ()
    ) -> dict[str, FeatureDistance]:
        """The metrics, filled with this process's clips; `compute` gathers those of the others."""
        metrics: dict[str, FeatureDistance] = {}
        for kind, extractor in self.extractors.items():
            mine = self._metrics(kind, extractor)
            for metric in mine.values():
                _fill(metric, kind, generated, self._stored or reference, failed)
            metrics |= mine
        return metrics

    def _metrics(self, kind: str, extractor: ClipFeatures) -> dict[str, FeatureDistance]:
        dim, fingerprint, count = extractor.dim, self._fingerprints[kind], self.num_clips
        (frechet, *_), (kernel, *_) = _TITLES[kind]
        return {
            frechet: FrechetDistance(dim=dim, extractor=fingerprint, num_clips=count),
            kernel: KernelDistance(
                dim=dim,
                extractor=fingerprint,
                num_clips=count,
                kernel="polynomial" if kind == "video" else "gaussian",
            ),
        }


_TITLES: Mapping[str, tuple[tuple[str, str, float], tuple[str, str, float]]] = {
    "video": (("fvd", "FVD", 1.0), ("kvd", "KVD", 1.0)),
    "sound": (("fad", "FAD", 1.0), ("kad", "KAD ×100", 100.0)),
}


def _common(mine: Mapping[str, Features], other: Mapping[str, Features]) -> dict[str, Features]:
    """My features as far as the other has the same of the clip."""
    return {
        key: {kind: rows for kind, rows in features.items() if kind in other[key]}
        for key, features in mine.items()
        if key in other
    }


def _fill(
    metric: FeatureDistance,
    kind: str,
    generated: Mapping[str, Features],
    reference: Mapping[str, Features],
    failed: Collection[str],
) -> None:
    for key, features in reference.items():
        if kind in features:
            metric.update(key, features[kind], real=True)
    for key, features in generated.items():
        if kind in features:
            metric.update(key, features[kind], real=False)
        else:
            metric.record_failure(key)
    for key in failed:
        metric.record_failure(key)
