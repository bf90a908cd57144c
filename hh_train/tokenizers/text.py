"""The weight-free text codec: a token a word, with frozen features of the word, its section and its place there."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hh_train.tokenizers.pretrained import PretrainedTokenizer
from hh_train.types import Prompt

NULL_PROMPT = Prompt(
    description="A frozen, blurred face with smeared features and lips that ignore the words, in a flickering picture",
    background_sound="distorted, muffled babble drowned in hiss and clipping",
).compose()

SECTION_CHANNELS = 8
CHARACTER_SCRIPTS = (
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uac00-\ud7a3\U00020000-\U0003134f"
)
"""Kana, Han and Hangul syllables: scripts in which a character is a token of its own."""
WORD = re.compile(
    rf"[{CHARACTER_SCRIPTS}]|(?:(?![{CHARACTER_SCRIPTS}])[^\W_])+(?:['’](?:(?![{CHARACTER_SCRIPTS}])[^\W_])+)*"
)


class Section(IntEnum):
    """The part of a prompt that a token comes from. A dialogue line's tag is its speaker and language."""

    DESCRIPTION = 0
    TAG = 1
    DIALOGUE = 2
    SOUND = 3


@dataclass(frozen=True)
class Word:
    """One token: the word, its section, and its place among the words of that section."""

    text: str
    section: Section
    place: int


class HashedTextTokenizer(PretrainedTokenizer):
    """Words to frozen features `[word | section | place]`; nothing is learnt and nothing is stored.

    The word's vector is built from hashes of the word and of its 1- to 3-grams, so that forms of a word resemble each
    other. The place is a bank of sine waves, counted within the section: the third word of the dialogue has the same
    place whatever the description's length. Every group of channels has mean square 1. A prompt too long for
    `max_tokens` loses the last words of the description, then of the background sound; the dialogue is never cut.
    """

    def __init__(
        self, *, channels: int = 96, place_channels: int = 32, max_tokens: int = 64, null_prompt: str = NULL_PROMPT
    ) -> None:
        super().__init__()
        if place_channels % 2 or place_channels < 4:
            raise ValueError(f"got {place_channels} place channels; wanted an even number of 4 or more")
        if channels - place_channels - SECTION_CHANNELS < SECTION_CHANNELS:
            raise ValueError(
                f"got {channels} channels, of which {place_channels} tell the place and {SECTION_CHANNELS} the "
                f"section; wanted {SECTION_CHANNELS} or more left for the word"
            )
        self._num_channels = channels
        self._max_tokens = max_tokens
        self._null_prompt = null_prompt
        self.place_channels = place_channels
        self.word_channels = channels - place_channels - SECTION_CHANNELS

    def settings(self) -> dict[str, Any]:
        return {
            "channels": self._num_channels,
            "place_channels": self.place_channels,
            "max_tokens": self._max_tokens,
            "null_prompt": self._null_prompt,
        }

    @property
    def num_channels(self) -> int:
        return self._num_channels

    @property
    def max_tokens(self) -> int:
        return self._max_tokens

    @property
    def null_prompt(self) -> str:
        """The fixed negative prompt that stands for 'no text' in guidance and in text dropout."""
        return self._null_prompt

    def encode(self, prompt: str) -> Float[Tensor, "Nt C"]:
        """Raises ValueError when the prompt has no word, or its dialogue is malformed or longer than `max_tokens`."""
        words = self.words(prompt)
        if not words:
            raise ValueError(f"got the prompt {prompt!r}, which has no word; wanted a description or a dialogue")
        content = torch.stack([word_vector(word.text, self.word_channels) for word in words])
        section = section_codes()[[int(word.section) for word in words]]
        place = place_waves(torch.tensor([word.place for word in words]), self.place_channels, self._max_tokens)
        return torch.cat([content, section, place], dim=1)

    def words(self, prompt: str) -> list[Word]:
        """The tokens of a prompt, in its order, cut to `max_tokens` as the class says."""
        parsed = Prompt.parse(prompt)
        tags = [word for line in parsed.dialogue for word in split_words(f"{line.speaker} {line.language}")]
        spoken = [word for line in parsed.dialogue for word in split_words(line.line)]
        free = self._max_tokens - len(tags) - len(spoken)
        if free < 0:
            raise ValueError(
                f"the dialogue alone has {len(tags) + len(spoken)} tokens, wanted {self._max_tokens} at most: "
                "shorten the lines or raise the text tokenizer's max_tokens"
            )
        sound = list(split_words(parsed.background_sound or ""))[:free]
        description = list(split_words(parsed.description))[: free - len(sound)]
        parts = (
            (Section.DESCRIPTION, description),
            (Section.TAG, tags),
            (Section.DIALOGUE, spoken),
            (Section.SOUND, sound),
        )
        return [Word(text, section, place) for section, texts in parts for place, text in enumerate(texts)]


def split_words(text: str) -> Iterator[str]:
    """Lower-case words without punctuation; Chinese, Japanese and Korean by the character."""
    normal = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    return (match.group() for match in WORD.finditer(normal))


@lru_cache(maxsize=65536)
def word_vector(word: str, num_channels: int) -> Float[Tensor, " C"]:
    """A fixed vector of mean square 1: half from the word, half from its 1- to 3-grams with the word's ends marked."""
    marked = f"<{word}>"
    pieces = {marked[i : i + n] for n in (1, 2, 3) for i in range(len(marked) - n + 1)} - {"<", ">"}
    grams = torch.stack([_hash_signs(piece, num_channels) for piece in sorted(pieces)]).sum(0)
    vector = _hash_signs(f"={word}", num_channels) + grams / grams.square().mean().sqrt().clamp_min(1e-6)
    return vector / vector.square().mean().sqrt().clamp_min(1e-6)


def _hash_signs(text: str, num_channels: int) -> Tensor:
    """+1 or -1 for each channel, from the bits of a hash that is the same on every machine."""
    digest = hashlib.shake_256(text.encode()).digest((num_channels + 7) // 8)
    bits = int.from_bytes(digest, "big")
    return torch.tensor([1.0 if bits >> channel & 1 else -1.0 for channel in range(num_channels)])


def section_codes() -> Float[Tensor, "4 8"]:
    """A row of +1 and -1 for each `Section`, any two orthogonal: rows 1 to 4 of the Hadamard matrix of order 8."""
    rows = torch.arange(1, len(Section) + 1)[:, None] & torch.arange(SECTION_CHANNELS)[None]
    parity = sum((rows >> bit) & 1 for bit in range(3))
    return 1.0 - 2.0 * (torch.as_tensor(parity) % 2)


def place_waves(places: Tensor, num_channels: int, longest: int) -> Float[Tensor, "N C"]:
    """Sines and cosines of mean square 1, at frequencies from 1 radian a word down to 1 radian in `longest` words."""
    half = num_channels // 2
    frequencies = float(longest) ** -(torch.arange(half, dtype=torch.float64) / (half - 1))
    angles = places.double()[:, None] * frequencies
    return (torch.cat([angles.sin(), angles.cos()], dim=1) * 2**0.5).float()
