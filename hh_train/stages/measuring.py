"""Clips of several systems through all measurers: decoded once, shared out between processes, resumed where killed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hh_train import data, metrics
from hh_train.data.footage.files import FootageFile
from hh_train.data.media.files import MediaReader
from hh_train.data.shards.file_lock import FileLock
from hh_train.metrics.comparison.scoreboard import Spoken
from hh_train.metrics.faces.cascade import CascadeFaces
from hh_train.metrics.faces.track import FaceFinder
from hh_train.metrics.measurement import (
    ClipMeasurement,
    MeasurementLog,
    Part,
    join_parts,
    measure_part,
    unread_part,
)
from hh_train.metrics.measurer import Measurer, Sample
from hh_train.metrics.report.page import BOXES
from hh_train.types import ClipMetadata

SAMPLES_PER_SECOND = 16_000
REAL, CODEC = "real", "codec"
REFERENCES = (REAL, CODEC)
"""Systems that nothing has generated: the real clips, and the same through the codecs and back."""
LOG_FOLDER = "measured"
_MOUTH = ".mouth"
"""Where the mouth was found, among what the measurers have found, if one of them looked for it."""


@dataclass(frozen=True, kw_only=True)
class SystemClips:
    """A folder of clips that is measured as one system."""

    name: str
    folder: str
    files: Mapping[str, FootageFile]
    """By key."""


@dataclass(frozen=True, kw_only=True)
class ScoredSystem:
    """A system with everything measured on it."""

    name: str
    folder: str
    paths: Mapping[str, Path]
    """The media by key."""
    measurements: Sequence[ClipMeasurement]

    @cached_property
    def by_key(self) -> dict[str, ClipMeasurement]:
        return {m.key: m for m in self.measurements}

    @property
    def readable_keys(self) -> set[str]:
        """Of the clips that could be read."""
        return {m.key for m in self.measurements if m.failure is None}

    @property
    def failures(self) -> dict[str, str]:
        return {m.key: m.failure for m in self.measurements if m.failure is not None}


def clip_reader(frames_per_second: float = 25.0) -> MediaReader:
    """How every clip of an evaluation is decoded: all of its frames at one rate, its sound at 16 kHz."""
    return MediaReader(
        frames_per_second=frames_per_second, samples_per_second=SAMPLES_PER_SECOND, frame_multiple=1, min_frames=2
    )


@cache
def measuring_code() -> str:
    """Hash of the code that decodes and measures: equal hashes, equal numbers."""
    packages = (Path(metrics.__path__[0]), Path(data.__path__[0]) / "media")
    files = [file for package in packages for file in sorted(package.rglob("*.py"))]
    parts = [file for file in files if not {"report", "comparison"} & set(file.parts[-3:-1])]
    return hashlib.sha256(b"\n".join(file.read_bytes() for file in parts)).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """Measures clips of systems, as far as the logs in the output folder do not hold them yet.

    Each of several processes takes its share of the clips and writes logs of its own. The last one to end finds
    everything measured.
    """

    truth: Mapping[str, ClipMetadata | None]
    """What is known about the real clips, by key."""
    measurers: Mapping[str, Measurer]
    output: Path
    real_latents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    process: int = 0
    num_processes: int = 1
    reader: MediaReader = field(default_factory=clip_reader)
    faces: FaceFinder = field(default_factory=CascadeFaces)

    @cached_property
    def _ways(self) -> dict[str, str]:
        """How each measurer measures, as text."""
        shared = f"{measuring_code()} {self.reader} {self.faces.fingerprint()}"
        own = {name: str(dict(measurer.protocol())) for name, measurer in self.measurers.items()}
        return {name: f"{shared} {way}" for name, way in {**own, _MOUTH: ""}.items()}

    def measure(self, systems: Sequence[SystemClips]) -> list[ScoredSystem] | None:
        """All measurements, or None where other processes have not finished theirs."""
        done = self._marker(self.process)
        done.parent.mkdir(parents=True, exist_ok=True)
        done.unlink(missing_ok=True)
        for system in systems:
            self._measure_share(system)
        with FileLock(done.parent / ".lock"):
            done.touch()
            markers = [self._marker(number) for number in range(self.num_processes)]
            if not all(marker.exists() for marker in markers):
                return None
            scored = [self._gathered(system) for system in systems]
            if any(system is None for system in scored):  # a marker is of a run before, whose process is at work again
                return None
            for marker in markers:
                marker.unlink(missing_ok=True)
        return [system for system in scored if system is not None]

    def _marker(self, process: int) -> Path:
        return self.output / LOG_FOLDER / f".done-{process}-of-{self.num_processes}"

    def _measure_share(self, system: SystemClips) -> None:
        log = self._log(system)
        files = list(system.files.values())[self.process :: self.num_processes]
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, transient=True) as progress:
            for file in progress.track(files, len(files), description=f"measure {system.name}"):
                stamps = self._stamps(system, file)
                missing = [name for name in self.measurers if log.get(file.key, name, stamps[name]) is None]
                for name, part in self._parts(system, file, missing):
                    log.add(file.key, name, stamps[name], part)

    def _log(self, system: SystemClips) -> MeasurementLog:
        return MeasurementLog(folder=self.output / LOG_FOLDER, system=system.name, process=self.process)

    def _gathered(self, system: SystemClips) -> ScoredSystem | None:
        """From the logs of all processes; None where something is missing."""
        log = self._log(system)
        measurements = []
        for key, file in system.files.items():
            parts = {name: log.get(key, name, stamp) for name, stamp in self._stamps(system, file).items()}
            found = [part for part in parts.values() if part is not None]
            if any(parts[name] is None for name in self.measurers):
                return None
            known = self.truth[key]
            spoken = Spoken.of(known)
            measurements.append(
                join_parts(
                    key,
                    found,
                    speaker=known.speaker if known else None,
                    slices=spoken.slices if spoken else (),
                )
            )
        return ScoredSystem(
            name=system.name,
            folder=system.folder,
            paths={key: file.path for key, file in system.files.items()},
            measurements=measurements,
        )

    def _stamps(self, system: SystemClips, file: FootageFile) -> dict[str, str]:
        """By measurer; changes with the clip's files, with what it was to say, and with how it is measured."""
        paths = (file.path, file.path.with_suffix(".json"))
        states = [(p.stat().st_size, p.stat().st_mtime_ns) if p.is_file() else None for p in paths]
        known = self.truth[file.key]
        said = (known.transcript, known.language) if known else None
        clip = f"{file.path.resolve()} {states} {said} {self._latents(system, file)}"
        return {name: hashlib.sha256(f"{clip} {way}".encode()).hexdigest()[:20] for name, way in self._ways.items()}

    def _latents(self, system: SystemClips, file: FootageFile) -> Mapping[str, Any] | None:
        return self.real_latents.get(file.key) if system.name == REAL else None

    def _parts(self, system: SystemClips, file: FootageFile, names: Sequence[str]) -> Iterator[tuple[str, Part]]:
        """What the named measurers say of a clip; of one that cannot be read its reason."""
        if not names:
            return
        spoken = Spoken.of(self.truth[file.key])
        try:
            sample = self._sample(system, file)
        except (ValueError, OSError) as error:
            for name in names:
                yield (
                    name,
                    unread_part(
                        self.measurers[name],
                        str(error),
                        transcript=spoken.transcript if spoken else None,
                        language=spoken.language if spoken else None,
                    ),
                )
            return
        for name in names:
            yield name, measure_part(self.measurers[name], sample)
        if "found_face" in vars(sample):
            yield _MOUTH, Part(details={BOXES: _mouth_boxes(sample)})

    def _sample(self, system: SystemClips, file: FootageFile) -> Sample:
        """Raises ValueError when the clip cannot be read, or was made to say something else."""
        known = self.truth[file.key]
        transcript, language = (known.transcript, known.language) if known else (None, None)
        fields = _json_fields(file)
        own = fields.get("transcript")
        if own and transcript and own != transcript:
            raise ValueError(f"was made to say {own!r}, but the real clip of this key says {transcript!r}")
        latents = self._latents(system, file)
        return Sample(
            key=file.key,
            clip=self.reader.read(file.path),
            transcript=transcript,
            language=language,
            fields=fields if latents is None else {**fields, "latent_statistics": latents},
            path=file.path,
            faces=self.faces,
        )


def _mouth_boxes(sample: Sample) -> list[list[float]] | None:
    """For the report, which shall not look for the face again."""
    try:
        return [[round(v, 4) for v in box] for box in sample.mouth.boxes.tolist()]
    except ValueError:  # there is none
        return None


def _json_fields(file: FootageFile) -> dict[str, Any]:
    path = file.path.with_suffix(".json")
    if not path.is_file():
        return {}
    fields = json.loads(path.read_text(encoding="utf-8"))
    return fields if isinstance(fields, dict) else {}
