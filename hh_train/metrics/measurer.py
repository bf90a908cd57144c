"""What measures clips: each measurer adds its values to a clip that is decoded, its face found, once for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, UInt8
from torch import Tensor

from hh_train.metrics.clip_metric import Row
from hh_train.metrics.faces.cascade import CascadeFaces
from hh_train.metrics.faces.crops import CROP_SIZE, mouth_crops
from hh_train.metrics.faces.head import mouth_of_face
from hh_train.metrics.faces.mouth import MouthTrack
from hh_train.metrics.faces.track import FaceFinder, FaceTrack, require_face
from hh_train.metrics.measure import Measure
from hh_train.metrics.sound.tracks import TrackSeconds, track_seconds
from hh_train.metrics.speech.backend import SpeechRecognizer
from hh_train.metrics.speech.transcripts import language_code
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
    path: Path | None = None
    """The file that the clip was read from, for what decoding hides: how long its tracks are."""

    faces: FaceFinder = field(default_factory=CascadeFaces)
    """What finds the face."""
    _heard: dict[tuple[int, str], tuple[SpeechRecognizer, str]] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def track_seconds(self) -> TrackSeconds | None:
        """How long picture and sound of the file are; None where the clip is of no file."""
        return None if self.path is None else track_seconds(self.path)

    @cached_property
    def found_face(self) -> FaceTrack | None:
        """The largest face, whatever its coverage; None where there is none."""
        return self.faces.find(self.clip.frames)

    @property
    def face(self) -> FaceTrack:
        """The face that measures may rest on. Raises NoFaceError (a ValueError) where it covers less than half."""
        return require_face(self.found_face)

    @cached_property
    def mouth(self) -> MouthTrack:
        """The face's mouth in every frame. Raises NoFaceError (a ValueError) where there is no face."""
        return mouth_of_face(self.clip.frames, self.face)

    def crops(self, size: int = CROP_SIZE) -> UInt8[Tensor, "F {size} {size}"]:
        """The mouth, gray, held still. Raises NoFaceError (a ValueError) where there is no face."""
        return mouth_crops(self.clip.frames, self.mouth.boxes, size=size)

    def heard(self, recognizer: SpeechRecognizer) -> str:
        """What a recognizer hears in the clip's sound; asked once, however many measures want to know.

        Raises:
            ValueError: without a sound track or a language, for a language that the recognizer does not know, or where
                the sound cannot be that of the picture, for its length.
        """
        if self.clip.waveform is None or self.language is None:
            missing = "sound track" if self.clip.waveform is None else "known language"
            raise ValueError(f"the clip has no {missing}, so that nothing is heard in it")
        code = language_code(self.language)
        if self.track_seconds is not None:
            self.track_seconds.require_match()
        asked = (id(recognizer), code)
        if asked not in self._heard:
            # kept with the recognizer, whose identity another could else take over
            self._heard[asked] = (recognizer, recognizer.transcribe(self.clip.waveform, code))
        return self._heard[asked][1]


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


@runtime_checkable
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
