"""What all recognizers share."""

from __future__ import annotations

import pytest
import torch

from hh_train.metrics.speech.backend import SpeechRecognizer, is_silent, known_language
from hh_train.metrics.speech.recognizer import Recognizer
from hh_train.runtime.composition import compose_config, config_folder
from hh_train.runtime.config import config_faults

RECOGNIZERS = sorted(path.stem for path in (config_folder() / "recognizer").glob("*.yaml"))


def test_the_trained_recognizer_is_one(hears_tones: tuple[Recognizer, list[int]]) -> None:
    recognizer, _ = hears_tones
    assert isinstance(recognizer, SpeechRecognizer)
    assert recognizer.languages == ("en",)
    assert not isinstance(torch.nn.Linear(1, 1), SpeechRecognizer)


def test_silence_is_told_from_whispers() -> None:
    assert is_silent(torch.zeros(0)) and is_silent(torch.full((100,), 1e-5))
    assert not is_silent(torch.full((100,), 1e-3))


def test_a_language_must_be_known() -> None:
    assert known_language("Mandarin", ("en", "zh"), "it") == "zh"
    with pytest.raises(ValueError, match="it does not know 'Cantonese' but en, zh"):
        known_language("Cantonese", ("en", "zh"), "it")
    with pytest.raises(ValueError, match="'Klingon' is unknown"):
        known_language("Klingon", ("en",), "it")


@pytest.mark.parametrize(("place", "name"), [*(("recognizer", name) for name in RECOGNIZERS), ("control", "whisper")])
def test_every_recognizer_can_be_chosen(place: str, name: str) -> None:
    override = f"{'+' if place == 'control' else ''}speech_recognizer@measures.speech.{place}={name}"
    path = [f"measures.speech.{place}.model=somewhere"] if name == "ctranslate2" else []
    assert not config_faults(compose_config("evaluate", [override, *path]))


def test_a_converted_model_must_be_named() -> None:
    faults = config_faults(compose_config("evaluate", ["speech_recognizer@measures.speech.recognizer=ctranslate2"]))
    assert [fault.key for fault in faults] == ["measures.speech.recognizer.model"]
