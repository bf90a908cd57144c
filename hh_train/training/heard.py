"""Whether the words of generated clips can be heard, while a model trains."""

from __future__ import annotations

from collections.abc import Sequence

from hh_train.metrics.speech.backend import SAMPLES_PER_SECOND, SpeechRecognizer
from hh_train.metrics.speech.transcripts import units
from hh_train.metrics.speech.wer import count_errors
from hh_train.tokenizers.oobleck import resample
from hh_train.types import Clip, ClipMetadata


def word_errors(recognizer: SpeechRecognizer, clips: Sequence[Clip], metadata: Sequence[ClipMetadata]) -> float | None:
    """Wrong words or characters over those that were to be said, in all clips that have a transcript, a language that
    the recognizer knows, and sound; None without any.
    """
    wrong = total = 0
    for clip, about in zip(clips, metadata, strict=True):
        words, language = about.transcript, about.language
        if clip.waveform is None or words is None or language is None or language not in recognizer.languages:
            continue
        if not units(words, language):
            continue
        sound = resample(clip.waveform[None], clip.samples_per_second, SAMPLES_PER_SECOND)[0]
        errors = count_errors(words, recognizer.transcribe(sound, language), language)
        wrong, total = wrong + errors.total, total + errors.reference_units
    return wrong / total if total else None
