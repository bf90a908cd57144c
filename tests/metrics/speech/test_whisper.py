"""A Whisper whose answers are chosen: languages, pieces, silence, and what its fingerprint covers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hh_train.metrics.speech.backend import SpeechRecognizer
from hh_train.metrics.speech.whisper import WhisperRecognizer

SaveWhisper = Callable[..., str]


@pytest.fixture(scope="module")
def says_hello(save_whisper: SaveWhisper, tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_whisper(tmp_path_factory.mktemp("whisper"), {"Ġhello": 5.0}, languages=("en", "de", "zh"))


def test_words_are_heard_piece_by_piece(says_hello: str, a_hum: Callable[[float], torch.Tensor]) -> None:
    recognizer = WhisperRecognizer(model=says_hello, max_tokens=2)
    assert isinstance(recognizer, SpeechRecognizer)
    assert recognizer.transcribe(a_hum(1.0), "English") == "hello hello"
    long = torch.cat((a_hum(25.0), torch.zeros(16_000), a_hum(10.0)))
    assert recognizer.transcribe(long, "de") == "hello hello hello hello"
    assert recognizer.transcribe(torch.zeros(16_000), "de") == recognizer.transcribe(torch.zeros(0), "de") == ""


def test_the_language_is_told_to_the_model(save_whisper: SaveWhisper, tmp_path: Path) -> None:
    recognizer = WhisperRecognizer(model=save_whisper(tmp_path, {"Ġhello": 5.0}), max_tokens=1)
    told: list[str] = []
    generate = recognizer._network.generate
    recognizer._network.generate = lambda **settings: told.append(settings["language"]) or generate(**settings)
    for language in ("Mandarin", "zh-CN", "Cantonese"):
        assert recognizer.transcribe(torch.ones(1600) * 0.1, language) == "hello"
    assert told == ["<|zh|>", "<|zh|>", "<|yue|>"]


def test_a_language_that_the_model_lacks_is_an_error(says_hello: str) -> None:
    recognizer = WhisperRecognizer(model=says_hello)
    assert recognizer.languages == ("zh", "en", "de")
    with pytest.raises(ValueError, match="does not know 'yue' but zh, en, de"):
        recognizer.transcribe(torch.ones(1600), "yue")


def test_an_english_model_knows_english_alone(save_whisper: SaveWhisper, tmp_path: Path) -> None:
    model = save_whisper(tmp_path, {"Ġworld": 5.0}, multilingual=False)
    recognizer = WhisperRecognizer(model=model, max_tokens=1)
    assert recognizer.languages == ("en",)
    assert recognizer.transcribe(torch.ones(1600) * 0.1, "en") == "world"


def test_the_fingerprint_changes_with_weights_and_decoding(
    says_hello: str, save_whisper: SaveWhisper, tmp_path: Path
) -> None:
    again, beams, other = (
        WhisperRecognizer(model=says_hello),
        WhisperRecognizer(model=says_hello, num_beams=2),
        WhisperRecognizer(model=save_whisper(tmp_path, {"Ġworld": 5.0})),
    )
    prints = [WhisperRecognizer(model=says_hello).fingerprint(), *(r.fingerprint() for r in (again, beams, other))]
    assert prints[0] == prints[1] and len(set(prints)) == 3


def test_what_holds_no_whisper_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no Whisper"):
        WhisperRecognizer(model=str(tmp_path)).transcribe(torch.ones(1600), "en")
    with pytest.raises(ValueError, match="num_beams 0"):
        WhisperRecognizer(model="x", num_beams=0)
    with pytest.raises(ValueError, match="got dtype 'floaty'"):
        WhisperRecognizer(model="x", dtype="floaty")
