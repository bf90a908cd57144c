"""Speech with phoneme times from espeak-ng, through ctypes on the library that `espeakng-loader` ships.

espeak-ng keeps hidden state from one utterance to the next (flutter, roughness, echo), so the library is loaded afresh
for each utterance (under a millisecond): the same request then gives the same samples in any order and any process.
"""

from __future__ import annotations

import _ctypes
import ctypes
import hashlib
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

SAMPLES_PER_SECOND = 16_000
SOUND_LEVEL = 0.1
"""Root mean square of the spoken part, in [0, 1] of full scale: -20 dB."""
PEAK_LEVEL = 0.9

ESPEAK_VOICES = {
    "zh": ("cmn",),
    "yue": ("yue",),
    "en": ("en-us", "en-gb-x-rp"),
    "ja": ("ja",),
    "ko": ("ko",),
    "de": ("de",),
    "fr": ("fr",),
}
"""Language code -> espeak-ng voices (accents) that speak it."""

_SYNCHRONOUS_OUTPUT = 2
_PHONEME_EVENTS_AS_IPA_WITHOUT_EXIT = 0x8003
_RATE, _PITCH = 1, 3
_UTF8 = 1
_END_OF_LIST, _PHONEME_EVENT = 0, 7
_LONGEST_DATA_PATH = 150
_QUIET = 0.01
_MARGIN_SECONDS = 0.02


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    """`espeak_EVENT` of espeak-ng's speak_lib.h."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    )


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


@dataclass(frozen=True, kw_only=True)
class Voice:
    """How one speaker sounds: the same in every language."""

    variant: str
    """espeak-ng voice variant: m1..m7, f1..f5."""
    pitch: int
    """0..99, 50 is the variant's own."""
    words_per_minute: int
    accent: int = 0
    """Which of a language's accents, counted round."""


@dataclass(frozen=True)
class Phoneme:
    """One sound and when it is heard."""

    symbol: str
    start: float
    """Seconds."""
    end: float


@dataclass(frozen=True, kw_only=True)
class Speech:
    """A spoken line without silence around it."""

    waveform: NDArray[np.float32]
    """S samples in [-1, 1] at 16 kHz."""
    phonemes: tuple[Phoneme, ...]


def speak(text: str, *, language: str, voice: Voice) -> Speech:
    """Speaks one line. Raises ImportError without espeakng-loader, ValueError for text in which nothing is heard."""
    accents = ESPEAK_VOICES[language]
    name = f"{accents[voice.accent % len(accents)]}+{voice.variant}"
    samples, events, native_rate = _synthesize(text, name, voice)
    waveform = resample_poly(samples, SAMPLES_PER_SECOND, native_rate).astype(np.float32)
    return _trim(_normalize(waveform, text), _to_phonemes(events, len(samples)), native_rate)


@lru_cache(maxsize=1)
def library_paths() -> tuple[str, str]:
    """The library and its data folder. Raises ImportError without espeakng-loader."""
    try:
        import espeakng_loader  # optional: it is GPL
    except ImportError as error:
        raise ImportError(
            "espeak-ng speaks the talking heads, and espeakng-loader is not installed: pip install 'hh-train[demo]'"
        ) from error
    library, data = espeakng_loader.get_library_path(), espeakng_loader.get_data_path()
    return str(library), _short_path(str(data))


def _short_path(path: str) -> str:
    """espeak-ng holds its data path in 160 bytes: longer ones are reached through a link in the temporary folder."""
    if len(path.encode()) <= _LONGEST_DATA_PATH:
        return path
    link = Path(tempfile.gettempdir()) / f"espeak-{hashlib.sha256(path.encode()).hexdigest()[:12]}"
    try:
        link.symlink_to(path)
    except FileExistsError:
        if link.readlink() != Path(path):
            raise
    return str(link)


def _synthesize(text: str, name: str, voice: Voice) -> tuple[NDArray[np.float32], list[tuple[str, int]], int]:
    """Samples in [-1, 1], (symbol, first sample) of each phoneme, and samples per second."""
    library_path, data_path = library_paths()
    library = ctypes.CDLL(library_path)
    chunks: list[NDArray[np.int16]] = []
    events: list[tuple[str, int]] = []

    @_Callback
    def collect(samples, count, event):  # type: ignore[no-untyped-def]
        if samples and count:
            chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        position = 0
        while event[position].type != _END_OF_LIST:
            if event[position].type == _PHONEME_EVENT:
                raw = ctypes.string_at(ctypes.addressof(event[position].id), 8).split(b"\0")[0]
                events.append((raw.decode("utf-8", "ignore"), event[position].sample))
            position += 1
        return 0

    try:
        rate = library.espeak_Initialize(
            _SYNCHRONOUS_OUTPUT, 0, ctypes.c_char_p(data_path.encode()), _PHONEME_EVENTS_AS_IPA_WITHOUT_EXIT
        )
        if rate <= 0:
            raise RuntimeError(f"espeak-ng does not start with the data in {data_path}: reinstall espeakng-loader")
        library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        library.espeak_SetSynthCallback(collect)
        if library.espeak_SetVoiceByName(ctypes.c_char_p(name.encode())):
            raise ValueError(f"espeak-ng has no voice {name!r}: name one of its languages + m1..m7 or f1..f5")
        library.espeak_SetParameter(_RATE, voice.words_per_minute, 0)
        library.espeak_SetParameter(_PITCH, voice.pitch, 0)
        data = text.encode()
        library.espeak_Synth(
            ctypes.c_char_p(data), ctypes.c_size_t(len(data) + 1), 0, 1, 0, _UTF8, ctypes.c_void_p(), ctypes.c_void_p()
        )
        library.espeak_Terminate()
    finally:
        _ctypes.dlclose(library._handle)
    samples = np.concatenate(chunks) if chunks else np.zeros(0, np.int16)
    return samples.astype(np.float32) / np.float32(32768), events, int(rate)


def _to_phonemes(events: list[tuple[str, int]], num_samples: int) -> list[tuple[str, int, int]]:
    """(symbol, first sample, end sample); an empty symbol, espeak-ng's pause, ends the phoneme before it."""
    ends = [start for _, start in events[1:]] + [num_samples]
    return [(s, start, end) for (s, start), end in zip(events, ends, strict=True) if s and end > start]


def _normalize(waveform: NDArray[np.float32], text: str) -> NDArray[np.float32]:
    loud = np.abs(waveform) > _QUIET
    if not loud.any():
        raise ValueError(f"espeak-ng is silent on {text!r}: give words in the script of the language")
    gain = SOUND_LEVEL / float(np.sqrt(np.mean(waveform[loud] ** 2)))
    return (waveform * min(gain, PEAK_LEVEL / float(np.abs(waveform).max()))).astype(np.float32)


def _trim(waveform: NDArray[np.float32], phonemes: list[tuple[str, int, int]], native_rate: int) -> Speech:
    """Cuts the silence before and after, and moves the phonemes accordingly."""
    heard = np.flatnonzero(np.abs(waveform) > _QUIET * float(np.abs(waveform).max()))
    margin = int(_MARGIN_SECONDS * SAMPLES_PER_SECOND)
    first, last = max(0, int(heard[0]) - margin), min(len(waveform), int(heard[-1]) + margin)
    kept = waveform[first:last].copy()
    fade = np.linspace(0, 1, margin // 2, dtype=np.float32)
    kept[: len(fade)] *= fade
    kept[-len(fade) :] *= fade[::-1]
    offset, duration = first / SAMPLES_PER_SECOND, len(kept) / SAMPLES_PER_SECOND

    def seconds(sample: int) -> float:
        return round(min(max(sample / native_rate - offset, 0.0), duration), 4)

    return Speech(waveform=kept, phonemes=tuple(Phoneme(s, seconds(a), seconds(b)) for s, a, b in phonemes))
