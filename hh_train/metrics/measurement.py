"""Everything that is measured on one decoded clip, and a log of it: a second evaluation measures only what is new."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hh_train.metrics.cost import generation_cost
from hh_train.metrics.faces.mouth import track_mouth
from hh_train.metrics.motion.weight_free import measure_motion
from hh_train.metrics.speech.recognizer import SAMPLES_PER_SECOND, Recognizer
from hh_train.metrics.speech.wer import SpeechErrors, count_errors
from hh_train.metrics.statistics import measure_statistics
from hh_train.metrics.sync.lip_sync import LipSync, SyncMeasurement, loudness_track, measure_sync
from hh_train.types import Clip

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class ClipMeasurement:
    """What one clip of one system measures."""

    key: str
    failure: str | None = None
    """Why the clip could not be read; then nothing is measured, and its speech counts as unsaid."""
    heard: str | None = None
    """What the recognizer heard; None where the clip has no transcript to compare with."""
    errors: SpeechErrors | None = None
    values: Mapping[str, float | None] = field(default_factory=dict)
    """Names of the metric classes to values; None where undefined."""
    opening: tuple[float, ...] = ()
    """The mouth's opening a frame."""
    loudness: tuple[float, ...] = ()
    """Logarithm of the sound's power, on `lip_sync`'s grid."""
    notes: tuple[str, ...] = ()
    """Why a quantity is undefined."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ClipMeasurement:
        """Reads `to_json`'s fields. Raises KeyError or TypeError when they are others."""
        errors = fields["errors"]
        return cls(
            **{
                **fields,
                "errors": None if errors is None else SpeechErrors(**errors),
                "opening": tuple(fields["opening"]),
                "loudness": tuple(fields["loudness"]),
                "notes": tuple(fields["notes"]),
            }
        )


def failed_measurement(key: str, reason: str, transcript: str | None, language: str | None) -> ClipMeasurement:
    """Of a clip that could not be read: all of its words are missing."""
    errors = count_errors(transcript, "", language) if transcript and language else None
    return ClipMeasurement(key=key, failure=reason, heard=None if errors is None else "", errors=errors)


def measure_clip(
    key: str,
    clip: Clip,
    *,
    transcript: str | None,
    language: str | None,
    fields: Mapping[str, Any],
    recognizer: Recognizer,
) -> ClipMeasurement:
    """Measures speech, sync, motion and statistics of a decoded clip. What cannot be measured is None, with a note.

    Args:
        key: of the clip.
        clip: decoded media, sound at 16 kHz.
        transcript: the words that were to be spoken; None leaves speech out.
        language: of the transcript.
        fields: the clip's json (generation cost, latent statistics); empty where it has none.
        recognizer: of the data set.

    Raises:
        ValueError: for sound of another sample rate.
    """
    if clip.samples_per_second != SAMPLES_PER_SECOND:
        raise ValueError(f"got sound at {clip.samples_per_second} Hz; read the clip at {SAMPLES_PER_SECOND} Hz")
    notes: list[str] = []
    values: dict[str, float | None] = {}
    latents = fields.get("latent_statistics")
    values |= vars(
        measure_statistics(
            clip.frames, clip.waveform, samples_per_second=clip.samples_per_second, latent_statistics=latents
        )
    )
    values |= generation_cost(fields)
    motion = _attempt(notes, lambda: measure_motion(clip.frames, frames_per_second=clip.frames_per_second))
    values |= vars(motion) if motion else {}
    opening, loudness, sync = _measure_sync(clip, notes)
    if sync is not None:
        values |= LipSync.values_of(sync)
    heard, errors = None, None
    if transcript and language:
        heard = _attempt(notes, lambda: _transcribe(recognizer, clip, language))
        if heard is not None:
            words = heard
            errors = _attempt(notes, lambda: count_errors(transcript, words, language))
    else:
        notes.append("it has no transcript" if not transcript else "its language is not known")
    if clip.waveform is None:
        notes.append("it has no sound track")
    return ClipMeasurement(
        key=key,
        heard=heard,
        errors=errors,
        values=values,
        opening=tuple(round(v, 4) for v in opening),
        loudness=tuple(round(v, 3) for v in loudness),
        notes=tuple(dict.fromkeys(notes)),
    )


def _transcribe(recognizer: Recognizer, clip: Clip, language: str) -> str:
    return "" if clip.waveform is None else recognizer.transcribe(clip.waveform, language)


def _measure_sync(clip: Clip, notes: list[str]) -> tuple[list[float], list[float], SyncMeasurement | None]:
    track = _attempt(notes, lambda: track_mouth(clip.frames))
    if track is None:
        return [], [], None
    sync = measure_sync(
        track.opening,
        clip.waveform,
        samples_per_second=clip.samples_per_second,
        frames_per_second=clip.frames_per_second,
    )
    if sync.reason:
        notes.append(f"sync: {sync.reason}")
    if clip.waveform is None or not clip.waveform.numel():
        return track.opening.tolist(), [], sync
    loudness = loudness_track(
        clip.waveform, samples_per_second=clip.samples_per_second, frames_per_second=clip.frames_per_second
    )
    return track.opening.tolist(), loudness.tolist(), sync


def _attempt(notes: list[str], measure: Callable[[], _T]) -> _T | None:
    """What is measured, or None with the reason among the notes."""
    try:
        return measure()
    except ValueError as error:
        notes.append(str(error))
        return None


class MeasurementLog:
    """Measurements of one system on disk, one JSON line a clip, written as they are made.

    A line counts while its stamp (of the clip's files and of the protocol) is the one that is asked for; a line that a
    killed run left unfinished is passed over.

    Args:
        path: the file; made with its folder when the first measurement is added.
    """

    def __init__(self, *, path: Path | str) -> None:
        self.path = Path(path)
        self._found: dict[str, tuple[str, ClipMeasurement]] = {}
        self._is_torn = False
        if self.path.is_file():
            text = self.path.read_text(encoding="utf-8")
            self._is_torn = not text.endswith("\n")
            for line in text.splitlines():
                self._read(line)

    def _read(self, line: str) -> None:
        try:
            fields = json.loads(line)
            measurement = ClipMeasurement.from_json(fields["measurement"])
            self._found[measurement.key] = (fields["stamp"], measurement)
        except (ValueError, KeyError, TypeError):
            return

    def get(self, key: str, stamp: str) -> ClipMeasurement | None:
        """The clip's measurement, if it was made under the same stamp."""
        found = self._found.get(key)
        return found[1] if found and found[0] == stamp else None

    def add(self, measurement: ClipMeasurement, stamp: str) -> None:
        """Appends a measurement."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"stamp": stamp, "measurement": measurement.to_json()}, ensure_ascii=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n" * self._is_torn + line + "\n")
        self._is_torn = False
        self._found[measurement.key] = (stamp, measurement)
