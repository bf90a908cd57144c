"""Clips with all that is known about them, as footage can be read again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hh_train.data.footage import clip_folder
from hh_train.data.footage.clip_folder import is_written, write_described_clip
from hh_train.data.footage.files import find_footage, read_metadata
from hh_train.types import Clip, ClipMetadata, DialogueLine, Prompt

CLIP = Clip(
    frames=torch.full((5, 16, 16, 3), 90, dtype=torch.uint8),
    frames_per_second=25.0,
    waveform=torch.zeros(3200),
    samples_per_second=16_000,
)
METADATA = ClipMetadata(
    key="a_clip",
    prompt=Prompt(description="A man", dialogue=(DialogueLine(speaker="Man", language="German", line="grüße"),)),
    transcript="grüße",
    language="de",
)


def test_what_is_written_is_footage(tmp_path: Path) -> None:
    write_described_clip(tmp_path, CLIP, METADATA, record={"seed": 3})
    (file,) = find_footage(tmp_path)
    assert read_metadata(file) == METADATA
    assert json.loads((tmp_path / "a_clip.json").read_text(encoding="utf-8"))["seed"] == 3
    assert Prompt.parse((tmp_path / "a_clip.txt").read_text(encoding="utf-8")) == METADATA.prompt


def test_a_clip_without_its_record_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(clip_folder.json, "dumps", killed)
    with pytest.raises(KeyboardInterrupt):
        write_described_clip(tmp_path, CLIP, METADATA, record={})
    assert (tmp_path / "a_clip.mp4").is_file() and not is_written(tmp_path, "a_clip")
    monkeypatch.undo()
    write_described_clip(tmp_path, CLIP, METADATA, record={})
    assert is_written(tmp_path, "a_clip")
