"""What is known about a clip, as people write it down: in a text, in JSON beside it, or in the columns of a table."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from hh_train.types import LANGUAGE_NAMES, ClipMetadata, DialogueLine, Prompt, language_code

NAMES = {
    "description": ("caption", "text", "prompt", "description", "cap", "captions"),
    "transcript": ("transcript", "transcription", "speech", "asr"),
    "language": ("language", "lang"),
    "speaker": ("speaker", "speaker_id", "voice"),
    "background_sound": ("background_sound", "background_audio", "ambient_sound", "audio_caption"),
    "dialogue": ("dialogue",),
}
"""The fields of a clip by the names that people give them, the preferred first."""


@lru_cache(maxsize=1024)
def plain_name(name: str) -> str:
    """A name of a column without its case and punctuation."""
    return re.sub(r"[^a-z0-9]+", "_", name.strip().lower()).strip("_")


def fields_by_name(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a clip under our names; others, and empty ones, are left out."""
    known = {plain_name(name): value for name, value in fields.items() if value is not None and value != ""}
    return {
        field: next(known[name] for name in names if name in known)
        for field, names in NAMES.items()
        if known.keys() & names
    }


def metadata_from_fields(fields: Mapping[str, Any], key: str) -> ClipMetadata:
    """The fields under our names as metadata; without a description it is empty.

    A description may be a whole composed prompt. Where there are a transcript and its language but no dialogue, the
    transcript is the dialogue.

    Raises:
        ValueError: a field is not text, or is text that cannot be written as UTF-8.
    """
    texts = {}
    for name in ("description", "transcript", "language", "speaker", "background_sound"):
        value = fields.get(name)
        if name == "description" and isinstance(value, list) and value:
            value = value[0]  # several captions of one clip: the first
        if isinstance(value, int | float) and not isinstance(value, bool) and name in ("speaker", "transcript"):
            value = str(value)  # a speaker's number, spoken digits
        if value is not None and not isinstance(value, str):
            raise ValueError(f"malformed fields: {name} is {value!r}, wanted text")
        if value is not None:
            texts[name] = _written(value.strip(), name)
    written = texts.get("language")
    language = language_code(written) or written.strip() if written else None
    transcript = " ".join(texts.get("transcript", "").split()) or None
    prompt = _prompt(texts, fields.get("dialogue"), transcript, language)
    spoken = " ".join(line.line for line in prompt.dialogue)
    return ClipMetadata(
        key=key,
        prompt=prompt,
        transcript=transcript or spoken or None,
        language=language,
        speaker=texts.get("speaker") or None,
    )


def _prompt(texts: Mapping[str, str], dialogue: Any, transcript: str | None, language: str | None) -> Prompt:
    prompt = Prompt.parse(texts.get("description", ""))
    if dialogue is not None:
        try:
            lines = tuple(DialogueLine(**line) for line in dialogue)
        except TypeError as error:
            raise ValueError(f"malformed fields: dialogue is {dialogue!r}: {error}") from error
        for line in lines:
            for value in (line.speaker, line.language, line.line):
                if not isinstance(value, str):
                    raise ValueError(f"malformed fields: dialogue is {dialogue!r}, wanted text")
                _written(value, "dialogue")
        prompt = replace(prompt, dialogue=lines)
    if not prompt.dialogue and transcript and language in LANGUAGE_NAMES:
        speaker = re.sub(r"[<>]", "", texts.get("speaker") or "") or "Speaker"
        prompt = replace(
            prompt, dialogue=(DialogueLine(speaker=speaker, language=LANGUAGE_NAMES[language], line=transcript),)
        )
    return replace(prompt, background_sound=texts.get("background_sound") or prompt.background_sound)


def metadata_beside(path: Path, key: str) -> ClipMetadata | None:
    """What lies beside a media file: `<name>.json`, or else the caption in `<name>.txt`; None when there is neither.

    A .json without a `description` leaves the caption to the .txt and may add the other fields. Without a caption in
    either the description is empty.

    Raises:
        ValueError: what lies there cannot be understood.
    """
    fields_path, caption_path = path.with_suffix(".json"), path.with_suffix(".txt")
    fields: Any = {}
    if fields_path.is_file():
        try:
            fields = json.loads(read_text(fields_path))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the .json beside the clip is not JSON: {error}") from error
    fields = fields if isinstance(fields, Mapping) else {}
    named = fields_by_name(fields)
    if caption_path.is_file() and not fields.get("description"):
        named["description"] = read_text(caption_path).strip()
    if not named:
        return None
    try:
        return metadata_from_fields(named, key)
    except ValueError as error:
        raise ValueError(f"what lies beside the clip cannot be used: {error}") from error


def read_text(path: Path) -> str:
    """A text in UTF-8, or in UTF-16 with its mark.

    Raises:
        ValueError: it is in another encoding.
    """
    content = path.read_bytes()
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"the {path.suffix} is not UTF-8 (at byte {error.start}): save it as UTF-8") from error


def _written(text: str, name: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"malformed fields: {name} has a character that is none, {text[error.start]!r}") from error
    return text
