"""Folders of clips with all that is known about them: what generation writes, and evaluation and tokenizing read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hh_train.data.media.files import write_clip
from hh_train.types import Clip, ClipMetadata


def write_described_clip(folder: Path, clip: Clip, metadata: ClipMetadata, *, record: Mapping[str, Any]) -> None:
    """Writes `KEY.mp4`, the prompt as `KEY.txt`, and the metadata with `record` as `KEY.json`.

    The .json comes last and complete or not at all: where it is, the clip is.
    """
    write_clip(folder / f"{metadata.key}.mp4", clip)
    (folder / f"{metadata.key}.txt").write_text(metadata.prompt.compose() + "\n", encoding="utf-8")
    file = folder / f"{metadata.key}.json"
    unfinished = file.with_suffix(".unfinished")
    fields = {**metadata.to_json(), **record}
    unfinished.write_text(json.dumps(fields, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    unfinished.replace(file)


def is_written(folder: Path, key: str) -> bool:
    """Whether the clip is there with all that belongs to it."""
    return (folder / f"{key}.json").is_file()
