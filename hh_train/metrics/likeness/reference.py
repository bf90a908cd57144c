"""Real clips of people, read when they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from hh_train.metrics.faces.track import FaceFinder
from hh_train.metrics.measurer import Sample
from hh_train.types import Clip


@dataclass(frozen=True, kw_only=True)
class ReferenceClips:
    """A folder of real clips of some people."""

    folder: str
    paths: Mapping[str, Sequence[Path]]
    """Media by person."""
    read: Callable[[Path], Clip]
    """Decodes one, its sound at 16 kHz. Raises ValueError or OSError where that cannot be."""

    @cached_property
    def fingerprint(self) -> str:
        """Of the people's names and the bytes of their clips, wherever they lie."""
        digest = hashlib.sha256()
        for person, paths in sorted(self.paths.items()):
            for file in sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths):
                digest.update(f"{person}\0{file}\0".encode())
        return digest.hexdigest()[:16]

    def samples(self, faces: FaceFinder) -> Iterator[tuple[str, Path, Sample | ValueError]]:
        """Person, file, and the decoded clip or why there is none."""
        for person, paths in self.paths.items():
            for path in paths:
                try:
                    clip = self.read(path)
                except (ValueError, OSError) as error:
                    yield person, path, ValueError(str(error))
                else:
                    yield (
                        person,
                        path,
                        Sample(key=path.stem, clip=clip, transcript=None, language=None, path=path, faces=faces),
                    )
