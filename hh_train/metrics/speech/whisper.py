"""Whisper through the transformers library: a general recognizer, by path or id."""

from __future__ import annotations

from functools import cached_property
from importlib import metadata
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hh_train.metrics.networks import weights_fingerprint
from hh_train.metrics.speech.backend import SAMPLES_PER_SECOND, is_silent, known_language
from hh_train.metrics.speech.pieces import split_at_pauses
from hh_train.types import LANGUAGE_NAMES


class WhisperRecognizer:
    """A Whisper model told which language it hears, in pieces of at most 30 seconds, without sampling.

    The model is loaded when it is first used. Radford et al., "Robust Speech Recognition via Large-Scale Weak
    Supervision", 2022.

    Args:
        model: folder or hub id, such as `openai/whisper-large-v3` (the first that knows Cantonese).
        num_beams: 1 decodes greedily.
        max_tokens: of the text of a piece.
        device, dtype: where the model runs, and in which numbers.

    Raises:
        ValueError: when it is first used, if `model` holds no Whisper.
    """

    def __init__(
        self, *, model: str, num_beams: int = 1, max_tokens: int = 200, device: str = "cpu", dtype: str = "float32"
    ) -> None:
        if num_beams < 1 or max_tokens < 1:
            raise ValueError(f"got num_beams {num_beams} and max_tokens {max_tokens}; wanted 1 or more of each")
        if not isinstance(getattr(torch, dtype, None), torch.dtype):
            raise ValueError(f"got dtype {dtype!r}; wanted one of torch's, such as float32 or bfloat16")
        self.model = model
        self.num_beams = num_beams
        self.max_tokens = max_tokens
        self.device = device
        self.dtype = dtype

    @cached_property
    def languages(self) -> tuple[str, ...]:
        """Codes of those of the seven languages that the model has a mark for; English alone where it has none."""
        marks = getattr(self._network.generation_config, "lang_to_id", None) or {}
        return tuple(code for code in LANGUAGE_NAMES if f"<|{code}|>" in marks) or ("en",)

    def transcribe(self, waveform: Float[Tensor, " S"], language: str) -> str:
        """The words of mono 16 kHz sound in that language.

        Raises:
            ValueError: for a language that the model does not know.
        """
        code = known_language(language, self.languages, self.model)
        heard = [self._hear(piece, code) for piece in split_at_pauses(waveform) if not is_silent(piece)]
        return " ".join(filter(None, heard))

    def fingerprint(self) -> str:
        """Of the weights, the decoding and the library."""
        return (
            f"whisper {self._weights} {self.dtype} beams {self.num_beams} tokens {self.max_tokens} "
            f"transformers {metadata.version('transformers')}"
        )

    @cached_property
    def _weights(self) -> str:
        return weights_fingerprint(self._network)

    @cached_property
    def _processor(self) -> Any:
        from transformers import AutoProcessor

        try:
            return AutoProcessor.from_pretrained(self.model)  # type: ignore[no-untyped-call]
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.model!r} holds no Whisper processor: {error}") from error

    @cached_property
    def _network(self) -> Any:
        from transformers import WhisperForConditionalGeneration

        try:
            network: Any = WhisperForConditionalGeneration.from_pretrained(self.model, dtype=getattr(torch, self.dtype))
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.model!r} holds no Whisper model: {error}") from error
        return network.to(self.device).eval().requires_grad_(False)

    def _hear(self, piece: Tensor, code: str) -> str:
        found = self._processor.feature_extractor(
            piece.detach().cpu().float().numpy(),
            sampling_rate=SAMPLES_PER_SECOND,
            return_attention_mask=True,
            return_tensors="pt",
        )
        told = (
            {"language": f"<|{code}|>", "task": "transcribe"} if self._network.generation_config.is_multilingual else {}
        )
        with torch.inference_mode():
            tokens = self._network.generate(
                input_features=found.input_features.to(self.device, self._network.dtype),
                attention_mask=found.attention_mask.to(self.device),
                num_beams=self.num_beams,
                do_sample=False,
                max_new_tokens=self.max_tokens,
                **told,
            )
        text: str = self._processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)[0]
        return " ".join(text.split())
