"""Speech of clips, as the evaluation measures it: what a recognizer hears against what was to be said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from typing import Any, Literal

from hh_train import types
from hh_train.metrics.clip_metric import Row
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurer import Measured, Sample
from hh_train.metrics.speech.backend import SAMPLES_PER_SECOND, SpeechRecognizer
from hh_train.metrics.speech.compatible import COMPATIBLE_VERSION, compatible_units
from hh_train.metrics.speech.kana import KanaReader
from hh_train.metrics.speech.transcripts import language_code, normalize, normalizer_fingerprint
from hh_train.metrics.speech.wer import SpeechErrors, align_units, count_errors, rate_rows

SPEECH = "speech_wer"
"""The measure that stands for speech: WER or CER, whichever the clip's language is counted in."""


def _percent(name: str, title: str, *, is_part: bool = False) -> Measure:
    """A part of another measure describes, and is not tested by itself."""
    return Measure(name=name, title=title, unit="%", scale=100.0, digits=1, better=None if is_part else "lower")


_RATES = (
    _percent(SPEECH, "speech error"),
    _percent("speech_substitutions", "substitutions", is_part=True),
    _percent("speech_deletions", "deletions", is_part=True),
    _percent("speech_insertions", "insertions", is_part=True),
    _percent("speech_wer_macro", "speech error, mean of clips", is_part=True),
    _percent("speech_above_half", "clips with more errors than right words", is_part=True),
)
_EOJEOL = _percent("speech_eojeol_wer", "Korean speech error in words")
_KANA = _percent("speech_kana_cer", "Japanese speech error in kana")
_CONTROL = _percent("speech_control_wer", "speech error, second recognizer")


class SpeechMeasurer:
    """Transcribes a clip's sound in its language and counts errors against the transcript.

    Args:
        recognizer: what hears.
        control: a second one, trained by somebody else on something else: where the two disagree on which of two
            systems speaks better, neither is to be believed.
        kana: also counts Japanese errors in kana; needs the `japanese` extra.
        normalizer: how both sides are spelled: `language` after the rules of each language, `magihuman_compat` as
            others do (`compatible`).

    Raises:
        ValueError: kana without its package.
    """

    def __init__(
        self,
        *,
        recognizer: SpeechRecognizer,
        control: SpeechRecognizer | None = None,
        kana: bool = False,
        normalizer: Literal["language", "magihuman_compat"] = "language",
    ) -> None:
        self.recognizer = recognizer
        self.control = control
        self.normalizer = normalizer
        self.kana = KanaReader() if kana else None

    @property
    def measures(self) -> Sequence[Measure]:
        """What it can say, in the order of the table."""
        languages = self.recognizer.languages
        korean = (_EOJEOL,) if "ko" in languages else ()
        japanese = (_KANA,) if self.kana is not None and "ja" in languages else ()
        return (*_RATES, *korean, *japanese, *((_CONTROL,) if self.control is not None else ()))

    def protocol(self) -> Mapping[str, str]:
        """Recognizers, normalizer and aligner."""
        return {
            "normalizer": normalizer_fingerprint() if self.normalizer == "language" else COMPATIBLE_VERSION,
            "jiwer": metadata.version("jiwer"),
            "recognizer": self.recognizer.fingerprint(),
            "second recognizer": "none" if self.control is None else self.control.fingerprint(),
            "kana": "none" if self.kana is None else self.kana.fingerprint(),
        }

    def measure(self, sample: Sample) -> Measured:
        """Measures one clip. A clip without a sound track has said nothing.

        Raises:
            ValueError: no transcript or language, a language that the recognizer does not know, or sound at another
                rate than 16 kHz.
        """
        transcript, code = required_transcript(sample)
        heard = _hear(self.recognizer, sample)
        values = self._values(transcript, heard, code)
        details: dict[str, Any] = {"heard": heard, "speech_errors": asdict(self._count(transcript, heard, code))}
        notes = ["it has no sound track"] if sample.clip.waveform is None else []
        if _KANA.name in values and values[_KANA.name] is None:
            notes.append(f"its transcript {transcript!r} has nothing that is read in Japanese")
        if self.control is not None:
            try:
                details["heard_by_control"] = _hear(self.control, sample)
                values[_CONTROL.name] = _row(self._count(transcript, details["heard_by_control"], code))
            except ValueError as error:
                values[_CONTROL.name] = None
                notes.append(f"second recognizer: {error}")
        return Measured(values=values, notes=notes, details=details)

    def measure_unread(self, *, transcript: str | None, language: str | None) -> Mapping[str, Row | float | None]:
        """What a clip that could not be read counts for: all of its words are missing, so that no system gains by
        broken files. Empty where a clip that can be read would not count either.
        """
        code = types.language_code(language or "")
        if code is None or code not in self.recognizer.languages or not normalize(transcript or "", code):
            return {}
        values = self._values(transcript or "", "", code)
        if self.control is not None:
            values[_CONTROL.name] = values[SPEECH] if code in self.control.languages else None
        return values

    def _values(self, transcript: str, heard: str, code: str) -> dict[str, Row | float | None]:
        """What the recognizer has heard, in every unit that the language is counted in."""
        rows = rate_rows(self._count(transcript, heard, code))
        values: dict[str, Row | float | None] = {measure.name: row for measure, row in zip(_RATES, rows, strict=True)}
        if code == "ko":
            values[_EOJEOL.name] = _row(count_errors(transcript, heard, code, unit="word"))
        if code == "ja" and self.kana is not None:
            is_read = bool(self.kana.read(transcript))
            values[_KANA.name] = _row(self.kana.count_errors(transcript, heard)) if is_read else None
        return values

    def _count(self, transcript: str, heard: str, code: str) -> SpeechErrors:
        if self.normalizer == "language":
            return count_errors(transcript, heard, code)
        return align_units(compatible_units(transcript, code), compatible_units(heard, code))


def required_transcript(sample: Sample) -> tuple[str, str]:
    """The words that a clip was to say, and the code of their language.

    Raises:
        ValueError: the clip has no transcript, or one without a word, or no language that is known. The prompt is
            never taken for it: it describes the whole scene.
    """
    if sample.transcript is None:
        raise ValueError("it has no transcript: give the spoken words in its caption's dialogue or its json")
    if sample.language is None:
        raise ValueError("its language is not known: give it in its caption's dialogue or its json")
    code = language_code(sample.language)
    if not normalize(sample.transcript, code):
        raise ValueError(f"its transcript {sample.transcript!r} has no word")
    return sample.transcript, code


def _hear(recognizer: SpeechRecognizer, sample: Sample) -> str:
    clip = sample.clip
    if clip.samples_per_second != SAMPLES_PER_SECOND:
        raise ValueError(f"got sound at {clip.samples_per_second} Hz; read the clip at {SAMPLES_PER_SECOND} Hz")
    return "" if clip.waveform is None else sample.heard(recognizer)


def _row(errors: SpeechErrors) -> Row:
    return rate_rows(errors)[0]
