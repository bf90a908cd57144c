"""A GLM-ASR of one layer, whose answer is chosen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hh_train.metrics.speech.backend import SpeechRecognizer
from hh_train.metrics.speech.prompted import PromptedRecognizer

TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|pad|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}<|assistant|>"
)


def save_glm_asr(folder: Path, answer: str) -> str:
    """Saves a model that writes its token 0, `answer`, whatever it hears."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import (
        GlmAsrConfig,
        GlmAsrForConditionalGeneration,
        GlmAsrProcessor,
        PreTrainedTokenizerFast,
        WhisperFeatureExtractor,
    )

    words = [answer, "Please", "transcribe", "this", "audio", "into", "text", "?"]
    plain = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
    plain.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="?", pad_token="<|endoftext|>", eos_token="<|endoftext|>",
        additional_special_tokens=["<|pad|>", "<|assistant|>"],
    )  # fmt: skip
    end, heard = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|pad|>"])
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    text = {
        "model_type": "llama", "vocab_size": len(tokenizer), "num_attention_heads": 2, "num_key_value_heads": 2,
        "max_position_embeddings": 256, "eos_token_id": end, "pad_token_id": end, **sizes,
    }  # fmt: skip
    sound = {
        "model_type": "glmasr_encoder", "num_mel_bins": 80, "num_attention_heads": 2, "num_key_value_heads": 2,
        "head_dim": 8, **sizes, "intermediate_size": 64,
    }  # fmt: skip
    model = GlmAsrForConditionalGeneration(
        GlmAsrConfig(audio_config=sound, text_config=text, audio_token_id=heard, tie_word_embeddings=False)
    )
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()  # then all tokens are as likely, and the first is taken
    model.save_pretrained(folder)
    extractor = WhisperFeatureExtractor(feature_size=80)
    GlmAsrProcessor(extractor, tokenizer, chat_template=TEMPLATE).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def says_hello(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_glm_asr(tmp_path_factory.mktemp("glm"), "hello")


def test_it_writes_what_it_is_asked_for(says_hello: str, a_hum: Callable[[float], torch.Tensor]) -> None:
    recognizer = PromptedRecognizer(model=says_hello, languages=["English", "cmn"], max_tokens=3)
    assert isinstance(recognizer, SpeechRecognizer)
    assert recognizer.transcribe(a_hum(1.0), "English") == "hello hello hello"
    assert recognizer.transcribe(a_hum(2.0), "Mandarin") == "hello hello hello"
    assert recognizer.transcribe(torch.zeros(16_000), "en") == ""
    with pytest.raises(ValueError, match="does not know 'fr' but en, zh"):
        recognizer.transcribe(a_hum(1.0), "fr")


def test_the_language_is_told_where_the_processor_takes_one(
    says_hello: str, a_hum: Callable[[float], torch.Tensor]
) -> None:
    recognizer = PromptedRecognizer(model=says_hello, max_tokens=1)
    told: list[str] = []
    plain = recognizer._processor.apply_transcription_request

    def request(audio: object, language: str) -> Any:
        told.append(language)
        return plain(audio=audio)

    recognizer._processor.apply_transcription_request = request
    assert recognizer.transcribe(a_hum(1.0), "Cantonese") == "hello"
    assert told == ["yue"]


def test_the_fingerprint_covers_weights_and_decoding(says_hello: str) -> None:
    recognizers = [PromptedRecognizer(model=says_hello, max_tokens=tokens) for tokens in (5, 5, 6)]
    with torch.no_grad():
        recognizers[1]._network.get_output_embeddings().weight[0, 0] = 1e-3
    assert len({r.fingerprint() for r in recognizers}) == 3
    assert PromptedRecognizer(model=says_hello, max_tokens=5).fingerprint() == recognizers[0].fingerprint()
    assert recognizers[0].fingerprint().startswith("GlmAsrForConditionalGeneration ")


def test_other_models_are_refused(save_whisper: Callable[..., str], tmp_path: Path) -> None:
    whisper = save_whisper(tmp_path / "whisper", {"Ġhello": 5.0})
    with pytest.raises(ValueError, match="for a Whisper take WhisperRecognizer"):
        PromptedRecognizer(model=whisper).transcribe(torch.ones(1600), "en")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no processor"):
        PromptedRecognizer(model=str(tmp_path / "empty")).transcribe(torch.ones(1600), "en")
    with pytest.raises(ValueError, match="'Klingon' is unknown"):
        PromptedRecognizer(model="x", languages=["Klingon"])
    with pytest.raises(ValueError, match="max_tokens 0"):
        PromptedRecognizer(model="x", max_tokens=0)
    with pytest.raises(ValueError, match="got dtype 'floaty'"):
        PromptedRecognizer(model="x", dtype="floaty")
