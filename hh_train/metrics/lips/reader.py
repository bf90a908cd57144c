"""What every lip reader can do, whoever trained it, and those that are opened by path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import UInt8
from torch import Tensor

from hh_train.metrics.networks import file_fingerprint, load_torchscript
from hh_train.metrics.speech.transcripts import language_code


@runtime_checkable
class LipReader(Protocol):
    """Reads what a mouth says. No sound takes part."""

    @property
    def languages(self) -> Sequence[str]:
        """Codes of the languages that it knows."""
        ...

    @property
    def crop_size(self) -> int:
        """Height and width in pixels of the crops that it reads."""
        ...

    def read(self, crops: UInt8[Tensor, "F S S"], language: str) -> str:
        """The words of a mouth that speaks that language; empty where it says nothing.

        Args:
            crops: the mouth in every frame (25 a second), gray, held still, as `faces.crops` cuts it.
            language: code or English name.

        Raises:
            ValueError: for a language that it does not know.
        """
        ...

    def fingerprint(self) -> str:
        """Equal fingerprints, equal readings: of the weights and of how they are decoded."""
        ...


class TorchScriptLipReader:
    """A lip reader of the Auto-AVSR kind, as a TorchScript module: gray mouths in, units of CTC or of a decoder out.

    The module takes [1, F, 1, side, side] floats, `(gray / 255 - mean) / std`, and returns either token numbers [N] or
    scores [1, T, units], which are read greedily by CTC's rule with unit 0 as the blank.

    Args:
        path: of the module, saved by `torch.jit.save`.
        units: path of a text file with one unit a line, unit 0 first; "▁" begins a word, as SentencePiece writes it.
        languages: codes of the languages that the units spell.
        side: pixels of the crops that the module was trained on.
        mean: of gray values from 0 to 1.
        std: likewise.

    Raises:
        ValueError: for a missing file, one that is no TorchScript, or an unknown language.
    """

    def __init__(
        self,
        *,
        path: str,
        units: str,
        languages: Sequence[str] = ("en",),
        side: int = 88,
        mean: float = 0.421,
        std: float = 0.165,
    ) -> None:
        self.languages: tuple[str, ...] = tuple(language_code(language) for language in languages)
        self.crop_size, self.mean, self.std = side, mean, std
        self._digest = f"{file_fingerprint(path)} {file_fingerprint(units)}"
        self._units = Path(units).read_text(encoding="utf-8").splitlines()
        self._module: Callable[..., Any] = load_torchscript(path)

    def fingerprint(self) -> str:
        return f"torchscript {self._digest} {self.crop_size} {self.mean} {self.std}"

    @torch.inference_mode()
    def read(self, crops: UInt8[Tensor, "F S S"], language: str) -> str:
        """The words of a mouth. Raises ValueError for an unknown language or when the module returns something else."""
        known_lips_language(language, self.languages)
        found = self._module((crops[None, :, None].float() / 255 - self.mean) / self.std)
        if not isinstance(found, Tensor) or found.ndim not in (1, 3):
            raise ValueError(
                "the lip reader's module returned neither token numbers [N] nor scores [1, T, units]; wrap it so that "
                "it returns one of them"
            )
        if found.ndim == 3:
            best = found[0].argmax(dim=-1).tolist()
            numbers = [u for i, u in enumerate(best) if u != 0 and (i == 0 or u != best[i - 1])]
        else:
            numbers = found.tolist()
        beyond = [number for number in numbers if not 0 <= number < len(self._units)]
        if beyond:
            raise ValueError(
                f"the lip reader said unit {beyond[0]} of {len(self._units)}; give the units that it was trained on"
            )
        return " ".join("".join(self._units[number] for number in numbers).replace("▁", " ").split())


def known_lips_language(language: str, languages: Sequence[str]) -> str:
    """The language's code. Raises ValueError for a language that is not among `languages`."""
    code = language_code(language)
    if code not in languages:
        raise ValueError(f"the lip reader does not know {language!r} but {', '.join(languages)}; train or take another")
    return code
