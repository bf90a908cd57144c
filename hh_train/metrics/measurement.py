"""What the measurers say of one clip, and a log of it: a second evaluation measures only what is new."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from glob import escape
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hh_train.metrics.clip_metric import Row
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurer import Measured, Measurer, Sample
from hh_train.metrics.sound.tracks import BrokenSoundError


@runtime_checkable
class CountsUnread(Protocol):
    """A measurer for which a clip that cannot be read is not undefined: speech that is not there has not been said."""

    def measure_unread(self, *, transcript: str | None, language: str | None) -> Mapping[str, Row | float | None]:
        """What a clip counts as that could not be read, by measure's name."""
        ...


@runtime_checkable
class FeatureMeasurer(Protocol):
    """A measurer that takes features of clips, and compares sets of clips by them."""

    @property
    def set_measures(self) -> Sequence[Measure]:
        """What it can say of a set, in the order of the table."""
        ...

    def measure_sets(
        self,
        generated: Mapping[str, Mapping[str, Float[Tensor, "_ _"]]],
        reference: Mapping[str, Mapping[str, Float[Tensor, "_ _"]]],
        *,
        failed: Collection[str] = (),
    ) -> Mapping[str, Distance]:
        """Distances of a set of clips from the real ones, by measure's name.

        Args:
            generated: features by the clips' keys, then by extractor.
            reference: likewise, of the real clips.
            failed: keys of clips that could not be read.
        """
        ...

    def compare_sets(
        self,
        first: Mapping[str, Mapping[str, Float[Tensor, "_ _"]]],
        second: Mapping[str, Mapping[str, Float[Tensor, "_ _"]]],
        reference: Mapping[str, Mapping[str, Float[Tensor, "_ _"]]],
    ) -> Mapping[str, tuple[float, float | None, float | None]]:
        """First distance minus second with its interval, by measure's name. Raises ValueError for sets of different
        prompts.
        """
        ...


@runtime_checkable
class Distance(Protocol):
    """A distance between sets, with its interval; None where it is not defined."""

    @property
    def value(self) -> float | None: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...
    @property
    def num_clips(self) -> int: ...
    @property
    def num_failed(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one measurer says of one clip."""

    values: Mapping[str, Row | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    features: Mapping[str, Float[Tensor, "rows D"]] = field(default_factory=dict, compare=False)
    failure: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "values": {n: None if r is None else [r.numerator, r.denominator] for n, r in self.values.items()},
            "notes": list(self.notes),
            "details": dict(self.details),
            "features": {name: _packed(rows) for name, rows in self.features.items()},
            "failure": self.failure,
        }  # fmt: skip

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Part:
        """Reads `to_json`'s fields. Raises KeyError, TypeError or ValueError when they are others."""
        return cls(
            values={name: None if row is None else Row(*row) for name, row in fields["values"].items()},
            notes=tuple(fields["notes"]),
            details=fields["details"],
            features={name: _unpacked(packed) for name, packed in fields["features"].items()},
            failure=fields["failure"],
        )


def _packed(rows: Tensor) -> dict[str, Any]:
    array = rows.detach().cpu().float().numpy()
    return {"shape": list(array.shape), "float32": base64.b64encode(array.tobytes()).decode()}


def _unpacked(packed: Mapping[str, Any]) -> Tensor:
    array = np.frombuffer(base64.b64decode(packed["float32"]), np.float32).reshape(packed["shape"])
    return torch.from_numpy(array.copy())


@dataclass(frozen=True, kw_only=True)
class ClipMeasurement:
    """What one clip of one system measures."""

    key: str
    failure: str | None = None
    """Why the clip could not be read; then only what counts unreadable clips has values."""
    values: Mapping[str, Row | None] = field(default_factory=dict)
    """By measure's name; None where undefined."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON for the report, by name."""
    notes: tuple[str, ...] = ()
    """Why a quantity is undefined."""
    features: Mapping[str, Float[Tensor, "rows D"]] = field(default_factory=dict, compare=False)
    """By extractor's name."""
    speaker: str | None = None
    slices: tuple[str, ...] = ()
    """The parts of the set that the clip counts in, too: its language, and what kind of text it says."""

    def value(self, name: str) -> float | None:
        """The clip's own ratio; None where undefined."""
        row = self.values.get(name)
        if row is None or row.denominator == 0:
            return None
        value = row.numerator / row.denominator
        return value if math.isfinite(value) else None

    def to_json(self) -> dict[str, Any]:
        """All but the features, which are for sets of clips and large."""
        return {
            "key": self.key,
            "failure": self.failure,
            "values": {n: None if r is None else list(asdict(r).values()) for n, r in self.values.items()},
            "details": dict(self.details),
            "notes": list(self.notes),
            "speaker": self.speaker,
            "slices": list(self.slices),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ClipMeasurement:
        """Reads `to_json`'s fields and ignores others. Raises KeyError or TypeError when some are missing."""
        return cls(
            key=fields["key"],
            failure=fields["failure"],
            values={name: None if row is None else Row(*row) for name, row in fields["values"].items()},
            details=fields["details"],
            notes=tuple(fields["notes"]),
            speaker=fields["speaker"],
            slices=tuple(fields["slices"]),
        )


def all_measures(measurers: Mapping[str, Measurer]) -> tuple[Measure, ...]:
    """What the measurers can say, in the order of the table.

    Raises:
        ValueError: two measurers have a measure of the same name.
    """
    owners: dict[str, str] = {}
    measures: list[Measure] = []
    for owner, measurer in measurers.items():
        for measure in measures_of(measurer):
            if measure.name in owners:
                raise ValueError(
                    f"the measure {measure.name!r} comes from {owners[measure.name]!r} and from {owner!r}; leave one "
                    "of them out"
                )
            owners[measure.name] = owner
            measures.append(measure)
    return tuple(measures)


def measures_of(measurer: Measurer) -> tuple[Measure, ...]:
    """What a measurer can say of a clip or of a set of clips."""
    return (*measurer.measures, *(measurer.set_measures if isinstance(measurer, FeatureMeasurer) else ()))


def measure_part(measurer: Measurer, sample: Sample) -> Part:
    """What one measurer says of a clip; a fault of the clip becomes a note, and all of its values undefined.

    Broken sound has said nothing, where that counts: no system gains by it.
    """
    try:
        measured = measurer.measure(sample)
    except ValueError as error:
        if isinstance(error, BrokenSoundError) and isinstance(measurer, CountsUnread):
            unsaid = measurer.measure_unread(transcript=sample.transcript, language=sample.language)
            return Part(values=_rows(unsaid), notes=(str(error),))
        return Part(values={measure.name: None for measure in measurer.measures}, notes=(str(error),))
    return _part_of(measurer, measured)


def unread_part(measurer: Measurer, reason: str, *, transcript: str | None, language: str | None) -> Part:
    """What a clip that could not be read counts as, for one measurer."""
    if not isinstance(measurer, CountsUnread):
        return Part(failure=reason)
    return Part(values=_rows(measurer.measure_unread(transcript=transcript, language=language)), failure=reason)


def _part_of(measurer: Measurer, measured: Measured) -> Part:
    unknown = set(measured.values) - {measure.name for measure in measurer.measures}
    if unknown:
        raise RuntimeError(f"{type(measurer).__name__} has values {sorted(unknown)} that are none of its measures")
    return Part(
        values=_rows(measured.values),
        notes=tuple(dict.fromkeys(measured.notes)),
        details=json.loads(json.dumps(measured.details)),
        features=measured.features,
    )


def _rows(values: Mapping[str, Row | float | None]) -> dict[str, Row | None]:
    return {name: _row(value) for name, value in values.items()}


def _row(value: Row | float | None) -> Row | None:
    row = value if isinstance(value, Row) or value is None else Row(float(value))
    if row is None or not (math.isfinite(row.numerator) and math.isfinite(row.denominator)):
        return None
    return row


def join_parts(
    key: str, parts: Sequence[Part], *, speaker: str | None = None, slices: Sequence[str] = ()
) -> ClipMeasurement:
    """The clip's measurement from what all measurers say."""
    return ClipMeasurement(
        key=key,
        failure=next((part.failure for part in parts if part.failure is not None), None),
        values={name: row for part in parts for name, row in part.values.items()},
        details={name: detail for part in parts for name, detail in part.details.items()},
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        features={name: rows for part in parts for name, rows in part.features.items()},
        speaker=speaker,
        slices=tuple(slices),
    )


class MeasurementLog:
    """Measurements of one system on disk, one JSON line a clip and measurer, written as they are made.

    A line counts while its stamp (of the clip's files, of what it was to say and of how it is measured) is the one that
    is asked for; a line that a killed run left unfinished is passed over. Several processes may write one system's
    measurements at the same time, each into a file of its own; every one reads them all.

    Args:
        folder: of the logs of all systems.
        system: name of the system.
        process: number of the process that writes.
    """

    def __init__(self, *, folder: Path | str, system: str, process: int = 0) -> None:
        self.folder, self.system = Path(folder), system
        self.path = self.folder / (f"{system}.jsonl" if process == 0 else f"{system}.process-{process}.jsonl")
        self._found: dict[tuple[str, str, str], Part] = {}
        self._is_torn = False
        self.read()

    def read(self) -> None:
        """Reads the files of all processes, again."""
        self._found = {}
        others = self.folder.glob(f"{escape(self.system)}.process-*.jsonl")
        for path in (self.folder / f"{self.system}.jsonl", *sorted(others)):
            if path.is_file():
                text = path.read_text(encoding="utf-8")
                self._is_torn |= path == self.path and bool(text) and not text.endswith("\n")
                for line in text.splitlines():
                    self._read_line(line)

    def _read_line(self, line: str) -> None:
        try:
            fields = json.loads(line)
            self._found[fields["key"], fields["measurer"], fields["stamp"]] = Part.from_json(fields["part"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return

    def get(self, key: str, measurer: str, stamp: str) -> Part | None:
        """What a measurer said of a clip, if under the same stamp."""
        return self._found.get((key, measurer, stamp))

    def add(self, key: str, measurer: str, stamp: str, part: Part) -> None:
        """Appends what a measurer says of a clip."""
        self.folder.mkdir(parents=True, exist_ok=True)
        fields = {"key": key, "measurer": measurer, "stamp": stamp, "part": part.to_json()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" * self._is_torn + json.dumps(fields, ensure_ascii=False) + "\n")
        self._is_torn = False
        self._found[key, measurer, stamp] = part
