"""The nouns that travel between the packages. All are frozen; every tensor's shape is stated.

Letters: F frames, H W height and width in pixels, S sound samples, C channels, T h w latent frames, rows and columns,
L audio latents, N tokens (Nv video, Na audio, Nt text; N = Nv + Na + Nt).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

DIALOGUE_HEADING = "Dialogue:"
SOUND_HEADING = "Background Sound:"
DIALOGUE_LINE = re.compile(r'<(?P<speaker>[^<>]*?)\s*,\s*(?P<language>[^<>,]*)>\s*:\s*["“](?P<line>.*)["”]')

LANGUAGE_NAMES = {
    "zh": "Mandarin",
    "yue": "Cantonese",
    "en": "English",
    "ja": "Japanese",
    "ko": "Korean",
    "de": "German",
    "fr": "French",
}
"""The languages: names as in prompts, by codes as in metadata."""
_OTHER_NAMES = {
    "zh": (
        "chinese zho chi cmn putonghua 中文 汉语 漢語 普通话 普通話 国语 國語 华语 華語 官话 官話 中国话 中國話 中国語 "
        "중국어 chinesisch chinois"
    ),
    "yue": "粤语 粵語 广东话 廣東話 广州话 廣州話 広東語 광둥어 kantonesisch cantonais",
    "en": "eng 英语 英語 英文 영어 englisch anglais",
    "ja": "jpn jp nihongo 日本語 日语 日語 日文 にほんご 일본어 japanisch japonais",
    "ko": "kor kr 한국어 한국말 韩语 韓語 韩文 韓文 韓国語 koreanisch coréen",
    "de": "deu ger deutsch 德语 德語 德文 ドイツ語 독일어 allemand",
    "fr": "fra fre français francais 法语 法語 法文 フランス語 프랑스어 französisch",
}
"""What else the languages are called: ISO 639 codes, and names in their own languages and in each other."""
_LANGUAGE_CODES = {
    name: code
    for code, english in LANGUAGE_NAMES.items()
    for name in (code, english.lower(), *_OTHER_NAMES[code].split())
}
_BOTH_CHINESE = frozenset({"zh", "chinese", "zho", "chi", "中文"})
"""Names that Mandarin has when it stands alone, and Cantonese beside its own."""
_CANTONESE_SUBTAGS = frozenset({"yue", "hk", "mo"})
_CANTONESE_REGIONS = ("hong kong", "hongkong", "macau", "macao")


def language_code(language: str) -> str | None:
    """The code of a language given in any usual form; None for one that is none of the seven.

    Codes, tags, English and own names mean the same: `zh`, `cmn`, `zh-CN`, `zh_Hans_CN`, `Chinese`, `Mandarin`,
    `Chinese (Mandarin)`, `Mandarin Chinese` and `中文`. `Chinese (Cantonese)`, `zh-yue`, `zh-HK` and `Chinese (Hong
    Kong)` are Cantonese. Two languages in one name are none.
    """
    written = unicodedata.normalize("NFKC", language).lower()
    words = re.findall(r"[^\W_]+", written)
    if re.fullmatch(r"[a-z]{2,3}([-_][a-z0-9]+)+", written.strip()):  # a tag: behind the language, script and region
        is_cantonese = words[0] in _BOTH_CHINESE and _CANTONESE_SUBTAGS & set(words[1:])
        return "yue" if is_cantonese else _LANGUAGE_CODES.get(words[0])
    named = [word for word in words if word in _LANGUAGE_CODES]
    if named and set(named) <= _BOTH_CHINESE and any(region in " ".join(words) for region in _CANTONESE_REGIONS):
        return "yue"
    if "yue" in {_LANGUAGE_CODES[word] for word in named}:
        named = [word for word in named if word not in _BOTH_CHINESE]
    found = {_LANGUAGE_CODES[word] for word in named}
    return found.pop() if len(found) == 1 else None


class Modality(IntEnum):
    """The kinds of token. Their order is that of the stacked experts in the released weights."""

    VIDEO = 0
    AUDIO = 1
    TEXT = 2


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Decoded media: what a codec reads and what generation returns."""

    frames: UInt8[Tensor, "F H W 3"]
    frames_per_second: float
    waveform: Float[Tensor, " S"] | None
    """Mono, in [-1, 1]; None when the clip has no sound track."""
    samples_per_second: int


@dataclass(frozen=True, kw_only=True)
class DialogueLine:
    """One spoken line of a prompt."""

    speaker: str
    language: str
    """English name of the language, as in prompts: Mandarin, Cantonese, English, Japanese, Korean, German, French."""
    line: str


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt in the documented structure, kept as fields so that it can be recomposed."""

    description: str
    dialogue: tuple[DialogueLine, ...] = ()
    background_sound: str | None = None

    def compose(self) -> str:
        """The prompt as the text encoder reads it: description, `Dialogue:` and `Background Sound:` blocks."""
        blocks = [self.description]
        if self.dialogue:
            lines = [f'<{d.speaker}, {d.language}>: "{d.line}"' for d in self.dialogue]
            blocks.append("\n".join([DIALOGUE_HEADING, *lines]))
        if self.background_sound:
            blocks.append(f"{SOUND_HEADING}\n<{self.background_sound}>")
        return "\n\n".join(blocks)

    @classmethod
    def parse(cls, text: str) -> Prompt:
        """Reads what `compose` writes. Text without blocks is a description alone.

        Raises:
            ValueError: a line below `Dialogue:` is not `<speaker, language>: "line"`.
        """
        blocks: dict[str, list[str]] = {"": [], DIALOGUE_HEADING: [], SOUND_HEADING: []}
        heading = ""
        for row in text.splitlines():
            if row.strip() in blocks and row.strip():
                heading = row.strip()
            else:
                blocks[heading].append(row.strip())
        dialogue = []
        for row in filter(None, blocks[DIALOGUE_HEADING]):
            match = DIALOGUE_LINE.fullmatch(row)
            if match is None:
                raise ValueError(f'got the dialogue line {row!r}; wanted <speaker, language>: "line"')
            dialogue.append(DialogueLine(speaker=match["speaker"], language=match["language"], line=match["line"]))
        sound = " ".join(filter(None, blocks[SOUND_HEADING]))
        sound = sound[1:-1] if sound.startswith("<") and sound.endswith(">") else sound
        return cls(
            description="\n".join(blocks[""]).strip(), dialogue=tuple(dialogue), background_sound=sound.strip() or None
        )


@dataclass(frozen=True, kw_only=True)
class ClipMetadata:
    """What is known about a clip beside its media. `to_json` writes what `from_json` reads."""

    key: str
    prompt: Prompt
    transcript: str | None = None
    """The spoken words alone; None when unknown (never the whole prompt)."""
    language: str | None = None
    """zh, yue, en, ja, ko, de or fr."""
    speaker: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "description": self.prompt.description,
            "dialogue": [{"speaker": d.speaker, "language": d.language, "line": d.line} for d in self.prompt.dialogue],
            "background_sound": self.prompt.background_sound,
            "transcript": self.transcript,
            "language": self.language,
            "speaker": self.speaker,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ClipMetadata:
        """Reads `to_json`'s fields and ignores others. Raises KeyError when `key` or `description` is missing."""
        return cls(
            key=fields["key"],
            prompt=Prompt(
                description=fields["description"],
                dialogue=tuple(DialogueLine(**line) for line in fields.get("dialogue") or ()),
                background_sound=fields.get("background_sound"),
            ),
            transcript=fields.get("transcript"),
            language=fields.get("language"),
            speaker=fields.get("speaker"),
        )


@dataclass(frozen=True, kw_only=True)
class LatentClip:
    """One tokenized clip. A modality that the clip does not have is None; text is always there."""

    key: str
    video: Float[Tensor, "C T h w"] | None
    audio: Float[Tensor, "L Ca"] | None
    text: Float[Tensor, "Nt Ct"]
    num_given_frames: int = 0
    """Leading latent frames that are given, not generated (image-to-video: 1): they stay clean and carry no loss."""
    audio_is_given: bool = False
    """Whether the sound is given (audio-to-video)."""


@dataclass(frozen=True)
class ClipLayout:
    """The tokens of one clip of a pack: video patches, then audio, then text."""

    video: tuple[int, int, int]
    """Patches along time, height and width; (0, 0, 0) without video."""
    audio: int
    text: int

    @property
    def num_video(self) -> int:
        return self.video[0] * self.video[1] * self.video[2]

    @property
    def num_tokens(self) -> int:
        return self.num_video + self.audio + self.text


@dataclass(frozen=True, kw_only=True)
class PackedBatch:
    """Clips of any size and modality set in one token sequence: the only thing the model takes.

    Tokens are stored grouped by modality (all clips' video, all audio, all text). The sequence, in which every clip is
    contiguous, is a permutation of the groups: `sequence = grouped[sequence_index]`, `grouped = sequence[group_index]`.
    """

    video: Float[Tensor, "Nv Cv"]
    """Patches in the model's input order, channel-major (c pT pH pW)."""
    audio: Float[Tensor, "Na Ca"]
    text: Float[Tensor, "Nt Ct"]
    video_is_given: Bool[Tensor, " Nv"]
    """Tokens that are conditions: they stay clean and carry no loss."""
    audio_is_given: Bool[Tensor, " Na"]
    video_clip: Int[Tensor, " Nv"]
    """Which clip of the pack a token belongs to."""
    audio_clip: Int[Tensor, " Na"]
    sequence_index: Int[Tensor, " N"]
    group_index: Int[Tensor, " N"]
    layouts: tuple[ClipLayout, ...]
    keys: tuple[str, ...] = field(default=())

    @property
    def num_clips(self) -> int:
        return len(self.layouts)

    @property
    def num_tokens(self) -> int:
        return self.sequence_index.shape[0]

    @property
    def modality_counts(self) -> tuple[int, int, int]:
        """Tokens per modality in the order of `Modality`."""
        return self.video.shape[0], self.audio.shape[0], self.text.shape[0]

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each clip."""
        return tuple(layout.num_tokens for layout in self.layouts)

    @cached_property
    def cumulative_lengths(self) -> tuple[int, ...]:
        """Where each clip starts in the sequence, and the end: num_clips + 1 integers."""
        return (0, *accumulate(self.lengths))

    def with_latents(self, video: Tensor, audio: Tensor) -> PackedBatch:
        """The same pack holding other video and audio tokens of the same shapes."""
        return replace(self, video=video, audio=audio)

    def float(self) -> PackedBatch:
        """The same pack with its tokens in float32."""
        return replace(self, video=self.video.float(), audio=self.audio.float(), text=self.text.float())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PackedBatch:
        tensors: dict[str, Any] = {
            name: value.to(device, non_blocking=non_blocking)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **tensors)


@dataclass(frozen=True)
class Prediction:
    """The model's velocity (noise minus clean) for the tokens of a pack, in the order of its `video` and `audio`."""

    video: Float[Tensor, "Nv Cv"]
    audio: Float[Tensor, "Na Ca"]
