"""Faces and lips as a measurer: is there a face, does the mouth rest in silence, and what can be read from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from hh_train.metrics.clip_metric import Row
from hh_train.metrics.faces.track import NoFaceError
from hh_train.metrics.lips.error_rate import AV, LIPREAD, lip_reading_rows
from hh_train.metrics.lips.leak import measure_leak
from hh_train.metrics.lips.reader import LipReader
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurer import Measured, Sample
from hh_train.metrics.speech.backend import SAMPLES_PER_SECOND, SpeechRecognizer
from hh_train.metrics.speech.measurer import required_transcript
from hh_train.metrics.speech.transcripts import normalizer_fingerprint

COVERAGE, LEAK = "face_coverage", "lip_leak"


def _percent(name: str, title: str, better: Literal["lower", "higher"] | None = "lower") -> Measure:
    return Measure(name=name, title=title, unit="%", scale=100.0, digits=1, better=better)


_ALWAYS = (_percent(COVERAGE, "frames with a face", "higher"), _percent(LEAK, "mouth moving in silence"))
_KINDS = (
    _percent("lipread_substitutions", "lip-reading substitutions", None),
    _percent("lipread_deletions", "lip-reading deletions", None),
    _percent("lipread_insertions", "lip-reading insertions", None),
)


class LipMeasurer:
    """Coverage by a face and motion in silence always; lip-reading errors where there is a reader.

    Args:
        reader: what reads the lips; None leaves lip reading out.
        recognizer: what hears the clip's own sound, for `av_wer`; None leaves that out.
    """

    def __init__(self, *, reader: LipReader | None = None, recognizer: SpeechRecognizer | None = None) -> None:
        self.reader, self.recognizer = reader, recognizer

    @property
    def measures(self) -> Sequence[Measure]:
        """What it can say, in the order of the table; a score of the reader stands beside its floor."""
        if self.reader is None:
            return _ALWAYS
        floor = getattr(self.reader, "floor", None)
        beside = "" if floor is None else f" (real held-out clips: {100 * floor:.1f})"
        read = (_percent(LIPREAD, f"lip-reading error{beside}"), *_KINDS)
        against = () if self.recognizer is None else (_percent(AV, "lips against the clip's own sound, error"),)
        return (*_ALWAYS, *read, *against)

    def protocol(self) -> Mapping[str, str]:
        """Reader, recognizer and normalizer."""
        return {
            "lip reader": "none" if self.reader is None else self.reader.fingerprint(),
            "heard by": "none" if self.reader is None or self.recognizer is None else self.recognizer.fingerprint(),
            "normalizer": normalizer_fingerprint(),
        }

    def measure(self, sample: Sample) -> Measured:
        """Measures one clip. Without a face the lips say nothing: their words all count as missing.

        Raises:
            ValueError: for sound at another rate than 16 kHz.
        """
        clip = sample.clip
        if clip.samples_per_second != SAMPLES_PER_SECOND:
            raise ValueError(f"got sound at {clip.samples_per_second} Hz; read the clip at {SAMPLES_PER_SECOND} Hz")
        found = sample.found_face
        values: dict[str, Row | float | None] = {COVERAGE: 0.0 if found is None else found.coverage, LEAK: None}
        notes: list[str] = []
        try:
            leak = measure_leak(
                sample.mouth.opening,
                clip.waveform,
                samples_per_second=clip.samples_per_second,
                frames_per_second=clip.frames_per_second,
            )
            values[LEAK] = leak.row
            notes += [] if leak.reason is None else [f"lip leak: {leak.reason}"]
        except NoFaceError as error:
            notes.append(str(error))
        details: dict[str, Any] = {}
        if self.reader is not None:
            values |= self._read(self.reader, sample, notes, details)
        return Measured(values=values, notes=notes, details=details)

    def _read(
        self, reader: LipReader, sample: Sample, notes: list[str], details: dict[str, Any]
    ) -> Mapping[str, Row | float | None]:
        if sample.language is None:
            notes.append("lip reading: its language is not known")
            return {}
        try:
            transcript, _ = required_transcript(sample)
        except ValueError as error:
            transcript = None
            notes.append(f"lip reading: {error}")
        try:
            read: str | None = reader.read(sample.crops(reader.crop_size), sample.language)
        except NoFaceError:
            read = None
        except ValueError as error:
            notes.append(f"lip reading: {error}")
            return {}
        heard = None
        try:
            heard = None if self.recognizer is None else sample.heard(self.recognizer)
        except ValueError as error:
            notes.append(f"lips against sound: {error}")
        details["lips_read"] = read
        rows = lip_reading_rows(transcript=transcript, read=read, heard=heard, language=sample.language)
        return {name: row for name, row in rows.items() if name != AV or self.recognizer is not None}

    def measure_unread(self, *, transcript: str | None, language: str | None) -> Mapping[str, Row | float | None]:
        """What a clip counts for that could not be read: it shows no face, and its lips have said nothing."""
        values: dict[str, Row | float | None] = {COVERAGE: 0.0}
        if self.reader is not None and transcript and language:
            rows = lip_reading_rows(transcript=transcript, read=None, heard=None, language=language)
            values |= {name: row for name, row in rows.items() if name != AV}
        return values
