"""Language models that listen, through the transformers library: GLM-ASR, Qwen3-ASR and their like."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cached_property
from importlib import metadata
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hh_train.metrics.networks import weights_fingerprint
from hh_train.metrics.speech.backend import SAMPLES_PER_SECOND, is_silent, known_language
from hh_train.types import LANGUAGE_NAMES


class PromptedRecognizer:
    """A model that is asked, in its own words, to transcribe; decoded greedily, all of the sound at once.

    It is told the language where its processor takes one (Qwen3-ASR; GLM-ASR finds it by itself). The model is loaded
    when it is first used.

    Args:
        model: folder or hub id, such as `zai-org/GLM-ASR-Nano-2512`; its processor must know how to make a
            transcription request.
        languages: those of the seven that the model is said to know, in any usual form; it cannot be asked.
        max_tokens: of the text.
        device, dtype: where the model runs, and in which numbers.

    Raises:
        ValueError: when it is first used, if `model` holds no such model.
    """

    def __init__(
        self,
        *,
        model: str,
        languages: Sequence[str] = tuple(LANGUAGE_NAMES),
        max_tokens: int = 256,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        if max_tokens < 1:
            raise ValueError(f"got max_tokens {max_tokens}; wanted 1 or more")
        if not isinstance(getattr(torch, dtype, None), torch.dtype):
            raise ValueError(f"got dtype {dtype!r}; wanted one of torch's, such as float32 or bfloat16")
        self.model = model
        self.languages = tuple(known_language(language, tuple(LANGUAGE_NAMES), model) for language in languages)
        self.max_tokens = max_tokens
        self.device = device
        self.dtype = dtype

    def transcribe(self, waveform: Float[Tensor, " S"], language: str) -> str:
        """The words of mono 16 kHz sound in that language.

        Raises:
            ValueError: for a language that is not among `languages`.
        """
        code = known_language(language, self.languages, self.model)
        if is_silent(waveform):
            return ""
        request = self._processor.apply_transcription_request
        told = {"language": code} if "language" in inspect.signature(request).parameters else {}
        asked = request(audio=[waveform.detach().cpu().float().numpy()], **told)
        asked = asked.to(self.device, self._network.dtype)
        with torch.inference_mode():
            tokens = self._network.generate(**asked, do_sample=False, num_beams=1, max_new_tokens=self.max_tokens)
        text: str = self._processor.tokenizer.decode(tokens[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)
        return " ".join(text.split())

    def fingerprint(self) -> str:
        """Of the weights, the decoding and the library."""
        return (
            f"{type(self._network).__name__} {self._weights} {self.dtype} tokens {self.max_tokens} "
            f"transformers {metadata.version('transformers')}"
        )

    @cached_property
    def _weights(self) -> str:
        return weights_fingerprint(self._network)

    @cached_property
    def _processor(self) -> Any:
        from transformers import AutoProcessor

        try:
            processor = AutoProcessor.from_pretrained(self.model)  # type: ignore[no-untyped-call]
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.model!r} holds no processor: {error}") from error
        if not hasattr(processor, "apply_transcription_request"):
            raise ValueError(
                f"{self.model!r} has a {type(processor).__name__}, which makes no transcription requests; for a "
                "Whisper take WhisperRecognizer"
            )
        rate = processor.feature_extractor.sampling_rate
        if rate != SAMPLES_PER_SECOND:
            raise ValueError(f"{self.model!r} hears sound at {rate} Hz; wanted a model for {SAMPLES_PER_SECOND} Hz")
        return processor

    @cached_property
    def _network(self) -> Any:
        from transformers import AutoModelForMultimodalLM

        try:
            network: Any = AutoModelForMultimodalLM.from_pretrained(self.model, dtype=getattr(torch, self.dtype))
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.model!r} holds no model that listens and writes: {error}") from error
        return network.to(self.device).eval().requires_grad_(False)
