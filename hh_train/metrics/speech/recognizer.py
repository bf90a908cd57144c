"""A small speech recognizer: log-mel frames, residual depthwise-separable convolutions, CTC over characters.

It is trained on one data set's sound (`recognizer_training.train`) and scores that data set only: its error on real
clips is the floor that every generated clip's error stands on. CTC: Graves et al., "Connectionist Temporal
Classification", ICML 2006; the convolutional form follows the idea of QuartzNet (Kriman et al., 2020).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from hh_train.metrics.speech import backend
from hh_train.metrics.speech.transcripts import language_code, normalize

SAMPLES_PER_SECOND = backend.SAMPLES_PER_SECOND
FRAMES_PER_SECOND = 100
BLANK = 0
_WEIGHTS, _CONFIG = "model.safetensors", "recognizer.json"


@dataclass(frozen=True, kw_only=True)
class RecognizerConfig:
    """Sizes and vocabulary: all that is needed to rebuild the network."""

    characters: tuple[str, ...]
    """The vocabulary; unit i + 1 is `characters[i]` and unit 0 is CTC's blank."""
    languages: Mapping[str, tuple[int, ...]]
    """The units that each language's transcripts use."""
    width: int = 128
    num_blocks: int = 6
    kernel_size: int = 9
    num_mels: int = 80
    stride: int = 4
    """Log-mel frames a CTC frame: 2 or 4."""


def mel_filters(
    num_mels: int, num_bins: int, low_hz: float = 40.0, high_hz: float = 7600.0
) -> Float[Tensor, "bins mels"]:
    """Triangular filters, equally spaced on the mel scale 2595 log10(1 + f / 700), for bins from 0 Hz to 8 kHz."""
    edges_mel = torch.linspace(_to_mel(low_hz), _to_mel(high_hz), num_mels + 2, dtype=torch.float64)
    edges_hz = 700 * (10 ** (edges_mel / 2595) - 1)
    bins_hz = torch.linspace(0, SAMPLES_PER_SECOND / 2, num_bins, dtype=torch.float64)[:, None]
    rising = (bins_hz - edges_hz[:-2]) / (edges_hz[1:-1] - edges_hz[:-2])
    falling = (edges_hz[2:] - bins_hz) / (edges_hz[2:] - edges_hz[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).float()


def _to_mel(hz: float) -> float:
    return 2595 * math.log10(1 + hz / 700)


class LogMel(nn.Module):
    """Waveforms to log-mel frames, 100 a second, relative to the loudest: 0 down to -1, which is 7 decades."""

    filters: Tensor
    window: Tensor

    def __init__(
        self, *, num_mels: int, fft_size: int = 512, window_size: int = 400, range_decades: float = 7.0
    ) -> None:
        super().__init__()
        self.fft_size, self.window_size, self.range_decades = fft_size, window_size, range_decades
        self.hop = SAMPLES_PER_SECOND // FRAMES_PER_SECOND
        self.register_buffer("filters", mel_filters(num_mels, fft_size // 2 + 1), persistent=False)
        self.register_buffer("window", torch.hann_window(window_size), persistent=False)

    def forward(self, waveform: Float[Tensor, " S"]) -> Float[Tensor, "frames mels"]:
        """S / 160 frames, rounded up."""
        padded = functional.pad(waveform, (self.fft_size // 2, self.fft_size // 2 + self.hop))
        spectrum = torch.stft(
            padded, self.fft_size, self.hop, self.window_size, self.window, center=False, return_complex=True
        )
        power = spectrum.abs().square().T @ self.filters
        frames = math.ceil(waveform.shape[0] / self.hop)
        log_power = power[:frames].clamp(min=1e-10).log10()
        return (log_power - log_power.max()).clamp(min=-self.range_decades) / self.range_decades


class _Block(nn.Module):
    """x + pointwise(gelu(norm(depthwise(x)))), both convolutions over time."""

    def __init__(self, width: int, kernel_size: int, dropout: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel_size, padding=kernel_size // 2, groups=width, bias=False)
        self.norm = nn.BatchNorm1d(width)
        self.expand = nn.Conv1d(width, 2 * width, 1)
        self.contract = nn.Conv1d(width, width, 1)
        self.dropout = nn.Dropout1d(dropout)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        update = self.expand(self.norm(self.depthwise(hidden)))
        update = self.contract(functional.glu(update, dim=1))
        result: Tensor = (hidden + self.dropout(update)) * mask
        return result


class Recognizer(nn.Module):
    """Speech to text for the languages that it was trained on.

    Args:
        config: sizes and vocabulary.
    """

    def __init__(self, *, config: RecognizerConfig) -> None:
        super().__init__()
        if config.stride not in (2, 4):
            raise ValueError(f"stride is {config.stride}; give 2 or 4 log-mel frames a CTC frame")
        self.config = config
        self.log_mel = LogMel(num_mels=config.num_mels)
        second_stride = config.stride // 2
        self.stem = nn.Conv1d(config.num_mels, config.width, 5, stride=2, padding=2)
        self.down = nn.Conv1d(config.width, config.width, 3, stride=second_stride, padding=1)
        self.blocks = nn.ModuleList(
            _Block(config.width, config.kernel_size, dropout=0.05) for _ in range(config.num_blocks)
        )
        self.norm = nn.BatchNorm1d(config.width)
        self.head = nn.Conv1d(config.width, len(config.characters) + 1, 1)

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages that it was trained on."""
        return tuple(self.config.languages)

    def forward(
        self, log_mel: Float[Tensor, "B frames mels"], lengths: Int[Tensor, " B"]
    ) -> tuple[Float[Tensor, "B T units"], Int[Tensor, " B"]]:
        """Log probabilities of the units, and how many CTC frames of each item are valid. Padding changes nothing."""
        hidden = log_mel.transpose(1, 2) + 0.5
        hidden = hidden * _valid(lengths, hidden.shape[2])
        hidden = functional.gelu(self.stem(hidden))
        lengths = (lengths + 1) // 2
        hidden = self.down(hidden * _valid(lengths, hidden.shape[2]))
        lengths = lengths if self.config.stride == 2 else (lengths + 1) // 2
        mask = _valid(lengths, hidden.shape[2])
        hidden = functional.gelu(hidden) * mask
        for block in self.blocks:
            hidden = block(hidden, mask)
        logits = self.head(functional.gelu(self.norm(hidden)))
        return logits.transpose(1, 2).float().log_softmax(dim=-1), lengths

    @torch.inference_mode()
    def transcribe_batch(self, waveforms: Sequence[Float[Tensor, " _"]], languages: Sequence[str | None]) -> list[str]:
        """What each mono 16 kHz waveform says, in the characters of its language (of all languages, where it is None).

        Silence gives an empty transcript.

        Raises:
            ValueError: for a language that the recognizer was not trained on.
        """
        if len(waveforms) != len(languages):
            raise ValueError(f"got {len(waveforms)} waveforms and {len(languages)} languages; give one language each")
        masks = [self._unit_mask(language) for language in languages]
        audible = [i for i, waveform in enumerate(waveforms) if not backend.is_silent(waveform)]
        texts = [""] * len(waveforms)
        if not audible:
            return texts
        device = self.head.weight.device
        features = [self.log_mel(waveforms[i].to(device, torch.float32)) for i in audible]
        lengths = torch.tensor([f.shape[0] for f in features], device=device)
        was_training = self.training
        self.eval()
        log_probabilities, valid = self(
            nn.utils.rnn.pad_sequence(features, batch_first=True, padding_value=-1), lengths
        )
        self.train(was_training)
        for row, i in enumerate(audible):
            best = (
                log_probabilities[row, : int(valid[row])].masked_fill(~masks[i].to(device), -torch.inf).argmax(dim=-1)
            )
            texts[i] = self._collapse(best.tolist())
        return texts

    def transcribe(self, waveform: Float[Tensor, " S"], language: str | None = None) -> str:
        """`transcribe_batch` of one waveform."""
        return self.transcribe_batch([waveform], [language])[0]

    def encode_text(self, text: str, language: str) -> list[int]:
        """The units of a transcript; characters outside the vocabulary are left out."""
        index = {character: i + 1 for i, character in enumerate(self.config.characters)}
        return [index[c] for c in normalize(text, language) if c in index]

    def _unit_mask(self, language: str | None) -> Tensor:
        mask = torch.ones(len(self.config.characters) + 1, dtype=torch.bool)
        if language is not None:
            code = language_code(language)
            if code not in self.config.languages:
                known = ", ".join(self.config.languages)
                raise ValueError(
                    f"the recognizer was not trained on {language!r} but on {known}; train it on that language"
                )
            mask[:] = False
            mask[[BLANK, *self.config.languages[code]]] = True
        return mask

    def _collapse(self, units: Sequence[int]) -> str:
        kept = [u for i, u in enumerate(units) if u != BLANK and (i == 0 or u != units[i - 1])]
        return " ".join("".join(self.config.characters[u - 1] for u in kept).split())

    def fingerprint(self) -> str:
        """Hash of configuration and weights: equal fingerprints, equal transcripts."""
        digest = hashlib.sha256(json.dumps(asdict(self.config), sort_keys=True, default=list).encode())
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def save(self, folder: Path | str) -> None:
        """Writes `model.safetensors` and `recognizer.json` into the folder, which is made."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, folder / _WEIGHTS)
        text = json.dumps(asdict(self.config), ensure_ascii=False, indent=1, default=dict)
        (folder / _CONFIG).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path | str) -> Recognizer:
        """Reads what `save` wrote, in evaluation mode.

        Raises:
            ValueError: when the folder holds no recognizer.
        """
        folder = Path(folder)
        if not (folder / _CONFIG).is_file() or not (folder / _WEIGHTS).is_file():
            raise ValueError(
                f"{folder} holds no recognizer ({_CONFIG}, {_WEIGHTS}); run `hh-train train_recognizer` first"
            )
        fields: dict[str, Any] = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        fields["characters"] = tuple(fields["characters"])
        fields["languages"] = {code: tuple(units) for code, units in fields["languages"].items()}
        recognizer = cls(config=RecognizerConfig(**fields))
        recognizer.load_state_dict(load_file(folder / _WEIGHTS))
        return recognizer.eval()


def build_vocabulary(transcripts: Sequence[tuple[str, str]]) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]]]:
    """`RecognizerConfig`'s characters and languages from (transcript, language) pairs."""
    used: dict[str, set[str]] = {}
    for text, language in transcripts:
        used.setdefault(language_code(language), set()).update(normalize(text, language))
    characters = tuple(sorted(set().union(*used.values())))
    index = {character: i + 1 for i, character in enumerate(characters)}
    return characters, {code: tuple(sorted(index[c] for c in chars)) for code, chars in sorted(used.items())}


def _valid(lengths: Tensor, size: int) -> Tensor:
    """[B, 1, size] of 1 inside each item and 0 in its padding."""
    return (torch.arange(size, device=lengths.device) < lengths[:, None])[:, None].float()
