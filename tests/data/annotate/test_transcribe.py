"""A tiny Whisper whose answers are chosen: the language it finds, its silence, its words, its pieces of 30 seconds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hh_train.data.annotate import Transcriber, WhisperTranscriber

LANGUAGES = ("en", "zh", "de", "ja", "ko", "fr", "yue")
SPECIAL = (
    "<|startoftranscript|>",
    *(f"<|{code}|>" for code in LANGUAGES),
    "<|translate|>",
    "<|transcribe|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)
WIDTH = 32


def save_whisper(folder: Path, answers: Mapping[str, float], *, languages: tuple[str, ...] = LANGUAGES) -> str:
    """Saves a model and its processor. Whatever it hears, the model gives these logits at every step."""
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )

    plain = ["<|endoftext|>", *"helowrdĠ", "Ġhello", "Ġworld"]
    tokenizer = WhisperTokenizer(
        vocab={token: index for index, token in enumerate(plain)}, additional_special_tokens=list(SPECIAL)
    )
    ids = tokenizer.get_vocab()
    end = ids["<|endoftext|>"]
    config = WhisperConfig(
        vocab_size=len(ids),
        d_model=WIDTH,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_target_positions=64,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=ids["<|startoftranscript|>"],
    )
    model = WhisperForConditionalGeneration(config)
    wanted = torch.zeros(WIDTH)
    for token, logit in answers.items():
        wanted[ids[token]] = logit
    with torch.no_grad():
        decoder = model.model.decoder
        decoder.embed_tokens.weight.copy_(torch.eye(len(ids), WIDTH))
        decoder.layer_norm.weight.zero_()
        decoder.layer_norm.bias.copy_(wanted)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=ids["<|startoftranscript|>"],
        eos_token_id=end,
        pad_token_id=end,
        no_timestamps_token_id=ids["<|notimestamps|>"],
        lang_to_id={f"<|{code}|>": ids[f"<|{code}|>"] for code in languages},
        task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
        is_multilingual=True,
        max_length=64,
    )
    model.save_pretrained(folder)
    WhisperProcessor(feature_extractor=WhisperFeatureExtractor(), tokenizer=tokenizer).save_pretrained(folder)
    return str(folder)


def tone(seconds: float, rate: int = 16_000) -> Tensor:
    return 0.3 * torch.sin(2 * math.pi * 200 * torch.arange(round(seconds * rate)) / rate)


@pytest.fixture(scope="module")
def german(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Hears German, then Cantonese, and always `hello`."""
    answers = {"<|de|>": 3.0, "<|yue|>": 2.0, "Ġhello": 5.0}
    return save_whisper(tmp_path_factory.mktemp("whisper"), answers)


def test_words_and_language_are_found(german: str) -> None:
    transcriber = WhisperTranscriber(model=german, max_tokens=2)
    assert isinstance(transcriber, Transcriber)
    heard = transcriber.transcribe(tone(1.0), samples_per_second=16_000)
    assert (heard.text, heard.language) == ("hello hello", "de")


def test_sound_of_another_rate_is_heard(german: str) -> None:
    heard = WhisperTranscriber(model=german, max_tokens=1).transcribe(tone(1.0, 51_200), samples_per_second=51_200)
    assert heard.text == "hello"


def test_a_given_language_is_taken(german: str) -> None:
    transcriber = WhisperTranscriber(model=german, max_tokens=1)
    assert transcriber.transcribe(tone(1.0), samples_per_second=16_000, language="fr").language == "fr"
    with pytest.raises(ValueError, match="got the language 'es'"):
        transcriber.transcribe(tone(1.0), samples_per_second=16_000, language="es")


def test_languages_that_are_not_wanted_are_not_found(german: str) -> None:
    transcriber = WhisperTranscriber(model=german, max_tokens=1, languages=("en", "yue", "fr"))
    assert transcriber.transcribe(tone(1.0), samples_per_second=16_000).language == "yue"


def test_the_given_language_and_task_reach_the_decoder(german: str, monkeypatch: pytest.MonkeyPatch) -> None:
    transcriber = WhisperTranscriber(model=german, max_tokens=1)
    seen = []
    network = transcriber._network
    real = network.generate

    def spy(**arguments: object) -> Tensor:
        seen.append((arguments["language"], arguments["task"]))
        found: Tensor = real(**arguments)
        return found

    monkeypatch.setattr(network, "generate", spy)
    transcriber.transcribe(tone(1.0), samples_per_second=16_000, language="ja")
    assert seen == [("<|ja|>", "transcribe")]


def test_silence_is_not_asked_about(german: str) -> None:
    transcriber = WhisperTranscriber(model=german)
    for sound in (torch.zeros(16_000), 1e-5 * tone(1.0), torch.zeros(0), tone(0.05)):
        heard = transcriber.transcribe(sound, samples_per_second=16_000)
        assert (heard.text, heard.language) == ("", None)


def test_sound_without_speech_gives_no_words(tmp_path: Path) -> None:
    model = save_whisper(tmp_path, {"<|de|>": 3.0, "Ġhello": 5.0, "<|nospeech|>": 4.5})
    silent = WhisperTranscriber(model=model, max_tokens=1, silence_probability=0.25)
    assert silent.transcribe(tone(1.0), samples_per_second=16_000).text == ""
    bold = WhisperTranscriber(model=model, max_tokens=1)
    assert bold.transcribe(tone(1.0), samples_per_second=16_000).text == "hello"


def test_long_sound_is_heard_in_pieces(german: str) -> None:
    transcriber = WhisperTranscriber(model=german, max_tokens=1)
    assert transcriber.transcribe(tone(61.0), samples_per_second=16_000).text == "hello hello hello"


def test_a_model_of_no_wanted_language_is_refused(tmp_path: Path) -> None:
    model = save_whisper(tmp_path, {"Ġhello": 5.0}, languages=("en",))
    with pytest.raises(ValueError, match="knows none of the languages zh"):
        WhisperTranscriber(model=model, languages=("zh",)).transcribe(tone(1.0), samples_per_second=16_000)


def test_the_model_is_loaded_when_it_is_used(tmp_path: Path) -> None:
    assert WhisperTranscriber(model=str(tmp_path / "missing")).settings()["model"].endswith("missing")


@pytest.mark.parametrize("arguments", [{"languages": ("es",)}, {"languages": ()}, {"silence_probability": 0.0}])
def test_settings_that_make_no_sense_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="wanted"):
        WhisperTranscriber(model="any", **arguments)  # type: ignore[arg-type]
