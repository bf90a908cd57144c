from __future__ import annotations

import sys

import numpy as np
import pytest
import speech
from phonemes import unknown_sounds
from speech import ESPEAK_VOICES, SAMPLES_PER_SECOND, Speech, Voice, speak
from texts import DIGITS, digit_line, sentences_of

from hh_train.types import LANGUAGE_NAMES

WOMAN = Voice(variant="f2", pitch=50, words_per_minute=180)


def test_every_language_has_a_voice() -> None:
    assert list(ESPEAK_VOICES) == list(LANGUAGE_NAMES)


@pytest.mark.parametrize("language", LANGUAGE_NAMES)
def test_every_language_speaks_digits_and_sentences_in_its_sounds(language: str) -> None:
    lines = [digit_line(digits, language) for digits in ("01234", "56789")] + sentences_of("test", language)[:6]
    spoken = [speak(line.spoken, language=language, voice=WOMAN) for line in lines]
    for line, sound in zip(lines, spoken, strict=True):
        seconds = len(sound.waveform) / SAMPLES_PER_SECOND
        assert 0.5 < seconds < 4.0, f"{line.spoken} takes {seconds} s"
        assert len(sound.phonemes) >= 5
        assert unknown_sounds(sound.phonemes) == set()
        assert np.abs(sound.waveform).max() > 0.1
    ten = [len(speak(word, language=language, voice=WOMAN).phonemes) for word in DIGITS[language]]
    assert max(ten) <= 8, "a digit that is spelt out instead of read has many more sounds"


def test_phonemes_follow_each_other_within_the_sound() -> None:
    sound = speak("seven one five", language="en", voice=WOMAN)
    ends = [phoneme.end for phoneme in sound.phonemes]
    starts = [phoneme.start for phoneme in sound.phonemes]
    assert all(start < end for start, end in zip(starts, ends, strict=True))
    assert all(end <= start for end, start in zip(ends[:-1], starts[1:], strict=True))
    assert starts[0] >= 0
    assert ends[-1] <= len(sound.waveform) / SAMPLES_PER_SECOND


def test_silence_around_the_words_is_cut() -> None:
    sound = speak("seven", language="en", voice=WOMAN)
    loud = np.flatnonzero(np.abs(sound.waveform) > 0.01 * np.abs(sound.waveform).max())
    assert loud[0] < 0.025 * SAMPLES_PER_SECOND
    assert len(sound.waveform) - loud[-1] < 0.025 * SAMPLES_PER_SECOND


def test_the_same_request_sounds_the_same_after_any_other() -> None:
    first = speak("four two", language="en", voice=WOMAN)
    speak("trois", language="fr", voice=Voice(variant="m4", pitch=20, words_per_minute=150))
    again = speak("four two", language="en", voice=WOMAN)
    assert np.array_equal(first.waveform, again.waveform)
    assert first.phonemes == again.phonemes


def test_pitch_and_pace_are_heard() -> None:
    def sound(pitch: int, words_per_minute: int) -> Speech:
        voice = Voice(variant="f1", pitch=pitch, words_per_minute=words_per_minute)
        return speak("nine one nine", language="en", voice=voice)

    assert _median_hertz(sound(65, 180).waveform) > 1.2 * _median_hertz(sound(30, 180).waveform)
    assert len(sound(50, 155).waveform) > 1.15 * len(sound(50, 200).waveform)


def _median_hertz(waveform: np.ndarray) -> float:
    """The strongest autocorrelation between 60 and 350 Hz, over the loud frames."""
    found = []
    for frame in waveform[: len(waveform) // 640 * 640].reshape(-1, 640):
        if np.sqrt(np.mean(frame**2)) > 0.05:
            lags = np.correlate(frame, frame, "full")[639:]
            shortest = SAMPLES_PER_SECOND // 350
            found.append(SAMPLES_PER_SECOND / (shortest + lags[shortest : SAMPLES_PER_SECOND // 60].argmax()))
    return float(np.median(found))


def test_text_without_sound_is_refused() -> None:
    with pytest.raises(ValueError, match="silent"):
        speak("...", language="en", voice=WOMAN)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    speech.library_paths.cache_clear()
    with pytest.raises(ImportError, match=r"pip install 'hh-train\[demo\]'"):
        speak("one", language="en", voice=WOMAN)
