"""How much the person and the voice of a clip resemble one person's real clips, and whether nobody's more."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from hh_train.metrics.clip_metric import Row
from hh_train.metrics.faces.track import FaceFinder
from hh_train.metrics.likeness.embedders import Embedder
from hh_train.metrics.likeness.people import SHRINKAGE, People, enrol
from hh_train.metrics.likeness.reference import ReferenceClips
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurer import Measured, Sample

log = logging.getLogger(__name__)

LEAST_OTHERS = 3
"""Whoever is told apart from fewer people is not recognized."""


@dataclass(frozen=True, kw_only=True)
class _Enrolled:
    """What the reference clips say to one embedder."""

    people: People
    files: Sequence[Path]
    """Of the person's clips, in the order of their vectors."""


class LikenessMeasurer:
    """Likeness is the cosine with the mean of the person's clips, in a space of all people's (`People`).

    Recognized is a clip that is more like the person than like any of the others. The reference clips are embedded at
    the first clip that is measured, with the faces of the same finder; one of them that is measured itself is compared
    with the rest.

    Args:
        person: real clips of one person.
        others: real clips of at least three others.
        face: says who is seen; null leaves that out.
        voice: says who is heard; null leaves that out.

    Raises:
        ValueError: `person` holds clips of nobody or of several people, or `others` of too few.
    """

    def __init__(
        self, *, person: ReferenceClips, others: ReferenceClips, face: Embedder | None, voice: Embedder | None
    ) -> None:
        if len(person.paths) != 1:
            raise ValueError(
                f"{person.folder} holds clips of {len(person.paths)} people ({_few(person.paths)}); wanted one person's"
            )
        self.name = next(iter(person.paths))
        rest = {name: paths for name, paths in others.paths.items() if name != self.name}
        if len(rest) < LEAST_OTHERS:
            raise ValueError(
                f"{others.folder} holds clips of {len(rest)} people other than {self.name} ({_few(rest)}); wanted at "
                f"least {LEAST_OTHERS}, told apart by `speaker` in the json beside each clip"
            )
        self.person = person
        self.others = ReferenceClips(folder=others.folder, paths=rest, read=others.read)
        embedders = {"face": face, "voice": voice}
        self.embedders = {kind: embedder for kind, embedder in embedders.items() if embedder is not None}
        self._enrolled: dict[str, dict[str, _Enrolled | str]] = {}

    @property
    def measures(self) -> Sequence[Measure]:
        """Likeness and recognition by each embedder."""
        count = len(self.others.paths) + 1
        found: list[Measure] = []
        for kind in self.embedders:
            found += [
                Measure(name=f"{kind}_likeness", title=f"likeness of the {kind} (cosine)", better="higher"),
                Measure(
                    name=f"{kind}_recognized",
                    title=f"{kind} recognized among {count} people",
                    unit="%",
                    scale=100.0,
                    digits=1,
                    better="higher",
                ),
            ]
        return found

    def protocol(self) -> Mapping[str, str]:
        """The reference clips' contents, the embedders, and the space."""
        return {
            "person": self.person.fingerprint,
            "others": f"{len(self.others.paths)} people {self.others.fingerprint}",
            "space": f"shrinkage {SHRINKAGE} torch {version('torch')}",
            **{kind: embedder.fingerprint() for kind, embedder in self.embedders.items()},
        }

    def measure(self, sample: Sample) -> Measured:
        """Measures one clip; without a face, or without sound, that part is undefined."""
        values: dict[str, Row | float | None] = {}
        notes: list[str] = []
        for kind, embedder in self.embedders.items():
            try:
                embedding = embedder.embed(sample)
                enrolled = self._reference(sample.faces)[kind]
                if isinstance(enrolled, str):
                    raise ValueError(enrolled)
                likeness, is_recognized = self._compare(embedding, enrolled, sample.path)
                values |= {f"{kind}_likeness": likeness, f"{kind}_recognized": float(is_recognized)}
            except ValueError as error:
                notes.append(f"likeness of the {kind}: {error}")
        return Measured(values=values, notes=notes)

    def _compare(self, embedding: Float[Tensor, " D"], enrolled: _Enrolled, path: Path | None) -> tuple[float, bool]:
        """Likeness to the person, and whether nobody's is as great."""
        files = enrolled.files
        own = files.index(path.resolve()) if path is not None and path.resolve() in files else None
        if own is not None and len(files) == 1:
            raise ValueError("it is the only reference clip of the person; wanted another to compare it with")
        people = enrolled.people
        likeness = float(people.likeness(embedding, self.name, without=own))
        nearest = max(float(people.likeness(embedding, other)) for other in people.clips if other != self.name)
        return likeness, likeness > nearest

    def _reference(self, faces: FaceFinder) -> Mapping[str, _Enrolled | str]:
        """By embedder: the reference clips, or why they say nothing. Embedded once for a face finder."""
        known = self._enrolled.get(faces.fingerprint())
        if known is not None:
            return known
        count = sum(len(paths) for clips in (self.person, self.others) for paths in clips.paths.values())
        log.info("likeness: embedding %d reference clips of %s and others", count, self.name)
        rows: dict[str, dict[str, list[Tensor]]] = {kind: {} for kind in self.embedders}
        files: dict[str, list[Path]] = {kind: [] for kind in self.embedders}
        for clips in (self.person, self.others):
            for person, path, sample in clips.samples(faces):
                for kind, embedder in self.embedders.items():
                    try:
                        if isinstance(sample, ValueError):
                            raise sample
                        embedding = embedder.embed(sample)
                    except ValueError as error:
                        log.warning("likeness of the %s: %s is left out: %s", kind, path, error)
                        continue
                    rows[kind].setdefault(person, []).append(embedding)
                    if person == self.name:
                        files[kind].append(path.resolve())
        found = {kind: self._enrol(rows[kind], files[kind], kind) for kind in self.embedders}
        self._enrolled[faces.fingerprint()] = found
        return found

    def _enrol(self, rows: Mapping[str, Sequence[Tensor]], files: Sequence[Path], kind: str) -> _Enrolled | str:
        what = {"face": "show a face", "voice": "let hear a voice"}[kind]
        if self.name not in rows:
            return f"none of the person's clips in {self.person.folder} {what}"
        if len(rows) <= LEAST_OTHERS:
            return f"clips of {len(rows) - 1} people in {self.others.folder} {what}; wanted {LEAST_OTHERS}"
        try:
            people = enrol({person: torch.stack(list(clips)) for person, clips in rows.items()})
        except ValueError as error:
            return str(error)
        return _Enrolled(people=people, files=files)


def _few(people: Mapping[str, object]) -> str:
    names = sorted(people)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") or "none"
