"""Whisper in CTranslate2's format through faster-whisper: quick on a CPU, in 8-bit integers."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from hh_train.metrics.networks import file_fingerprint
from hh_train.metrics.speech.backend import is_silent, known_language
from hh_train.metrics.speech.pieces import split_at_pauses
from hh_train.types import LANGUAGE_NAMES

_NEEDED = ("model.bin", "config.json", "tokenizer.json")


class CTranslate2Recognizer:
    """A converted Whisper model told which language it hears, in pieces of at most 30 seconds, without sampling.

    The model is loaded when it is first used.

    Args:
        model: folder of `model.bin`, `config.json`, `tokenizer.json` and the vocabulary.
        beam_size: 1 decodes greedily.
        max_tokens: of the text of a piece.
        device: `cpu` or `cuda`.
        compute_type: what CTranslate2 calculates in, such as int8 or float16.

    Raises:
        ValueError: a file is missing, or the package is.
    """

    def __init__(
        self, *, model: str, beam_size: int = 5, max_tokens: int = 200, device: str = "cpu", compute_type: str = "int8"
    ) -> None:
        self.folder = Path(model)
        missing = [name for name in _NEEDED if not (self.folder / name).is_file()]
        if missing:  # without its tokenizer the library would ask a hub for one
            raise ValueError(
                f"{model} has no {', '.join(missing)}; wanted a Whisper converted by ct2-transformers-converter with "
                "--copy_files tokenizer.json preprocessor_config.json"
            )
        if beam_size < 1 or max_tokens < 1:
            raise ValueError(f"got beam_size {beam_size} and max_tokens {max_tokens}; wanted 1 or more of each")
        if importlib.util.find_spec("faster_whisper") is None:
            raise ValueError(
                "models in CTranslate2's format need the package faster-whisper: pip install 'hh-train[ctranslate2]'"
            )
        self.beam_size = beam_size
        self.max_tokens = max_tokens
        self.device = device
        self.compute_type = compute_type

    @cached_property
    def languages(self) -> tuple[str, ...]:
        """Codes of those of the seven languages that the model has a mark for; English alone where it has none."""
        if not self._network.model.is_multilingual:
            return ("en",)
        marks = self._network.hf_tokenizer.get_vocab()
        return tuple(code for code in LANGUAGE_NAMES if f"<|{code}|>" in marks)

    def transcribe(self, waveform: Float[Tensor, " S"], language: str) -> str:
        """The words of mono 16 kHz sound in that language.

        Raises:
            ValueError: for a language that the model does not know.
        """
        code = known_language(language, self.languages, str(self.folder))
        heard = [self._hear(piece, code) for piece in split_at_pauses(waveform) if not is_silent(piece)]
        return " ".join(filter(None, heard))

    def fingerprint(self) -> str:
        """Of the weights, the decoding and the library."""
        return (
            f"ctranslate2 whisper {self._weights} {self.compute_type} beams {self.beam_size} tokens {self.max_tokens} "
            f"ctranslate2 {metadata.version('ctranslate2')} faster-whisper {metadata.version('faster-whisper')}"
        )

    @cached_property
    def _weights(self) -> str:
        return " ".join(file_fingerprint(self.folder / name) for name in ("model.bin", "tokenizer.json"))

    @cached_property
    def _network(self) -> Any:
        library: Any = importlib.import_module("faster_whisper")
        return library.WhisperModel(
            str(self.folder), device=self.device, compute_type=self.compute_type, local_files_only=True
        )

    def _hear(self, piece: Tensor, code: str) -> str:
        segments, _ = self._network.transcribe(
            piece.detach().cpu().float().numpy(),
            language=code,
            task="transcribe",
            beam_size=self.beam_size,
            temperature=0.0,
            max_new_tokens=self.max_tokens,
            condition_on_previous_text=False,
            without_timestamps=True,
            compression_ratio_threshold=None,
            log_prob_threshold=None,
            no_speech_threshold=None,
        )
        return " ".join(" ".join(segment.text for segment in segments).split())
