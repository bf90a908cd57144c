"""What the tests of speech hear: a language of three tones and who has learnt it, and a Whisper of one layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch

from hh_train.metrics.speech.recognizer import Recognizer
from hh_train.metrics.speech.recognizer_training import Utterance, train

TONES = {"low": 350.0, "middle": 1100.0, "high": 3200.0}
LANGUAGES = ("en", "zh", "de", "ja", "ko", "fr", "yue")
SPECIAL = (
    "<|startoftranscript|>",
    *(f"<|{code}|>" for code in LANGUAGES),
    *("<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"),
)
WIDTH = 32

MakeUtterances = Callable[[int, int], list[Utterance]]
SaveWhisper = Callable[..., str]


@pytest.fixture(scope="session")
def make_utterances() -> MakeUtterances:
    """Makes `count` recordings of two or three words, which are tones."""

    def make(count: int, seed: int) -> list[Utterance]:
        generator = torch.Generator().manual_seed(seed)
        made = []
        for i in range(count):
            words = [list(TONES)[int(k)] for k in torch.randint(3, (2 + i % 2,), generator=generator)]
            pieces = [torch.zeros(1200)]
            for word in words:
                detuned = TONES[word] * float(torch.empty(()).uniform_(0.97, 1.03, generator=generator))
                samples = torch.arange(4000)
                pieces += [0.3 * torch.sin(samples * 2 * torch.pi * detuned / 16_000), torch.zeros(1600)]
            sound = torch.cat(pieces)
            sound = sound + 0.002 * torch.randn(sound.shape, generator=generator)
            made.append(Utterance(key=f"{seed}-{i}", waveform=sound, transcript=" ".join(words), language="en"))
        return made

    return make


@pytest.fixture(scope="session")
def hears_tones(make_utterances: MakeUtterances) -> tuple[Recognizer, list[int]]:
    """A recognizer that was trained on 48 recordings, and the steps that its training reported."""
    steps: list[int] = []
    recognizer = train(
        make_utterances(48, 0),
        max_steps=140,
        batch_size=16,
        width=48,
        num_blocks=2,
        vocoded_share=0.1,
        report=lambda now: steps.append(now.step),
    )
    return recognizer, steps


@pytest.fixture(scope="session")
def save_whisper() -> SaveWhisper:
    """Saves a Whisper whose answer at every step is given by logits, whatever it hears."""
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )

    def save(
        folder: Path,
        answers: Mapping[str, float],
        *,
        languages: tuple[str, ...] = LANGUAGES,
        multilingual: bool = True,
    ) -> str:
        plain = ["<|endoftext|>", *"helowrdĠ", "Ġhello", "Ġworld"]
        tokenizer = WhisperTokenizer(
            vocab={token: index for index, token in enumerate(plain)}, additional_special_tokens=list(SPECIAL)
        )
        ids = tokenizer.get_vocab()
        end = ids["<|endoftext|>"]
        model = WhisperForConditionalGeneration(
            WhisperConfig(
                vocab_size=len(ids), d_model=WIDTH, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_target_positions=64,
                pad_token_id=end, bos_token_id=end, eos_token_id=end,
                decoder_start_token_id=ids["<|startoftranscript|>"],
            )
        )  # fmt: skip
        wanted = torch.zeros(WIDTH)
        for token, logit in answers.items():
            wanted[ids[token]] = logit
        with torch.no_grad():
            decoder = model.model.decoder
            decoder.embed_tokens.weight.copy_(torch.eye(len(ids), WIDTH))
            decoder.layer_norm.weight.zero_()
            decoder.layer_norm.bias.copy_(wanted)
        marks = {
            "lang_to_id": {f"<|{code}|>": ids[f"<|{code}|>"] for code in languages},
            "task_to_id": {"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
        }
        model.generation_config = GenerationConfig(
            decoder_start_token_id=ids["<|startoftranscript|>"],
            eos_token_id=end,
            pad_token_id=end,
            no_timestamps_token_id=ids["<|notimestamps|>"],
            is_multilingual=multilingual,
            max_length=64,
            **(marks if multilingual else {}),
        )
        model.save_pretrained(folder)
        WhisperProcessor(feature_extractor=WhisperFeatureExtractor(), tokenizer=tokenizer).save_pretrained(folder)
        return str(folder)

    return save


def hum(seconds: float, rate: int = 16_000) -> torch.Tensor:
    return 0.3 * torch.sin(2 * math.pi * 200 * torch.arange(round(seconds * rate)) / rate)


@pytest.fixture(scope="session")
def a_hum() -> Callable[[float], torch.Tensor]:
    """A tone of so many seconds."""
    return hum
