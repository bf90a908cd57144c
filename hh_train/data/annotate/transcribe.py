"""Speech to text with the language it is in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from hh_train.types import LANGUAGE_NAMES

_SILENCE_RMS = 1e-3
_PIECE_SECONDS = 30.0
_SHORTEST_PIECE_SECONDS = 0.1


@dataclass(frozen=True, kw_only=True)
class Transcription:
    """What is said in a clip."""

    text: str
    """Empty when nobody speaks."""
    language: str | None
    """zh, yue, en, ja, ko, de or fr; None when nobody speaks."""


@runtime_checkable
class Transcriber(Protocol):
    """Hears the words of a clip."""

    def transcribe(
        self, waveform: Float[Tensor, " S"], *, samples_per_second: int, language: str | None = None
    ) -> Transcription:
        """Writes down mono sound; the language is identified unless it is given."""
        ...

    def settings(self) -> dict[str, Any]:
        """All that the result depends on, as plain JSON values."""
        ...


class WhisperTranscriber:
    """A Whisper model of the transformers library, decoded greedily in pieces of at most 30 seconds.

    The model is loaded when it is first used.

    Args:
        model: folder or hub id, such as `openai/whisper-large-v3` (the first that knows Cantonese).
        languages: those that are told apart; of these the model must know one.
        silence_probability: nobody speaks where the model gives this much to its mark for no speech.
        max_tokens: of the text of a piece.
        device, dtype: where the model runs, and in which numbers.
    """

    def __init__(
        self,
        *,
        model: str,
        languages: Sequence[str] = tuple(LANGUAGE_NAMES),
        silence_probability: float = 0.6,
        max_tokens: int = 200,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        unknown = sorted(set(languages) - set(LANGUAGE_NAMES))
        if unknown or not languages:
            raise ValueError(f"got the languages {list(languages)}; wanted some of {', '.join(LANGUAGE_NAMES)}")
        if not 0 < silence_probability <= 1:
            raise ValueError(f"got silence_probability {silence_probability}; wanted above 0 up to 1")
        self.model = model
        self.languages = tuple(languages)
        self.silence_probability = silence_probability
        self.max_tokens = max_tokens
        self.device = device
        self.dtype = dtype

    def settings(self) -> dict[str, Any]:
        """All that the result depends on, as plain JSON values."""
        return {
            "class": "WhisperTranscriber",
            "model": self.model,
            "languages": list(self.languages),
            "silence_probability": self.silence_probability,
            "max_tokens": self.max_tokens,
        }

    def transcribe(
        self, waveform: Float[Tensor, " S"], *, samples_per_second: int, language: str | None = None
    ) -> Transcription:
        """Writes down mono sound; the language is that of the first piece with speech, unless it is given.

        Raises:
            ValueError: the language is not one that the model knows.
        """
        if language is not None and language not in self._language_tokens:
            raise ValueError(
                f"got the language {language!r}; {self.model} is asked for {', '.join(self._language_tokens)}"
            )
        sound = self._resampled(waveform, samples_per_second)
        rate = self._processor.feature_extractor.sampling_rate
        texts = []
        for piece in sound.split(round(_PIECE_SECONDS * rate)):
            if piece.shape[0] < _SHORTEST_PIECE_SECONDS * rate or float(piece.square().mean().sqrt()) < _SILENCE_RMS:
                continue
            features = self._features(piece)
            speaks, found = self._listen(features)
            if speaks:
                language = language or found
                texts.append(self._write_down(features, language))
        text = " ".join(filter(None, texts))
        return Transcription(text=text, language=language if text else None)

    @cached_property
    def _processor(self) -> Any:
        from transformers import AutoProcessor

        return AutoProcessor.from_pretrained(self.model)  # type: ignore[no-untyped-call]

    @cached_property
    def _network(self) -> Any:
        from transformers import AutoModelForSpeechSeq2Seq

        network: Any = AutoModelForSpeechSeq2Seq.from_pretrained(self.model, dtype=getattr(torch, self.dtype))
        network.generation_config.max_length = self.max_tokens  # Whisper does not count its prompt
        return network.to(self.device).eval().requires_grad_(False)

    @cached_property
    def _language_tokens(self) -> dict[str, int]:
        """Those of the wanted languages that the model knows, with their marks. Raises ValueError for none."""
        known = getattr(self._network.generation_config, "lang_to_id", None) or {}
        found = {code: known[f"<|{code}|>"] for code in self.languages if f"<|{code}|>" in known}
        if not found:
            raise ValueError(
                f"{self.model} knows none of the languages {', '.join(self.languages)}: wanted a multilingual Whisper"
            )
        return found

    def _resampled(self, waveform: Tensor, samples_per_second: int) -> Tensor:
        from hh_train.data.media.files import resample

        wanted = self._processor.feature_extractor.sampling_rate
        sound = waveform.detach().cpu().float()
        if samples_per_second == wanted or not sound.shape[0]:
            return sound
        return torch.from_numpy(resample(sound.numpy(), samples_per_second, wanted))

    def _features(self, piece: Tensor) -> Tensor:
        extractor = self._processor.feature_extractor
        found = extractor(piece.numpy(), sampling_rate=extractor.sampling_rate, return_tensors="pt")
        features: Tensor = found.input_features.to(self.device, self._network.dtype)
        return features

    def _listen(self, features: Tensor) -> tuple[bool, str]:
        """Whether somebody speaks, and the likeliest language."""
        start = torch.tensor([[self._network.config.decoder_start_token_id]], device=self.device)
        with torch.inference_mode():
            logits = self._network(input_features=features, decoder_input_ids=start).logits[0, -1].float()
        tokens = self._language_tokens
        language = max(tokens, key=lambda code: float(logits[tokens[code]]))
        silence = self._silence_token
        probability = 0.0 if silence is None else float(logits.softmax(-1)[silence])
        return probability < self.silence_probability, language

    @property
    def _silence_token(self) -> int | None:
        """The mark for no speech, under the name of newer or older vocabularies."""
        vocabulary: dict[str, int] = self._processor.tokenizer.get_vocab()
        return vocabulary.get("<|nospeech|>", vocabulary.get("<|nocaptions|>"))

    def _write_down(self, features: Tensor, language: str) -> str:
        with torch.inference_mode():
            tokens = self._network.generate(
                input_features=features,
                language=f"<|{language}|>",
                task="transcribe",
                num_beams=1,
                do_sample=False,
            )
        text: str = self._processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)[0]
        return " ".join(text.split())
