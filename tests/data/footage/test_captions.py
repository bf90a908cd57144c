"""What is known about a clip: fields under the names that people give them, and texts in the encodings they save."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hh_train.data.footage.captions import metadata_beside, metadata_from_fields, read_text
from hh_train.types import ClipMetadata, DialogueLine, Prompt


def test_an_unknown_language_stays_and_makes_no_dialogue() -> None:
    metadata = metadata_from_fields({"description": "d", "transcript": "bom dia", "language": "Portuguese"}, "k")
    assert (metadata.language, metadata.prompt.dialogue) == ("Portuguese", ())


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    metadata = ClipMetadata(
        key="a",
        prompt=Prompt(
            description="A man,\nalone",
            dialogue=(DialogueLine(speaker="Man, calm", language="English", line='he "says" so'),),
            background_sound="rain",
        ),
        transcript="he says so",
        language="en",
        speaker="anna",
    )
    (tmp_path / "a.json").write_text(json.dumps(metadata.to_json()))
    assert metadata_beside(tmp_path / "a.mp4", "a") == metadata


def test_fields_beside_a_caption_are_added(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A man")
    (tmp_path / "a.json").write_text(json.dumps({"caption": "other", "transcript": "hi", "lang": "French", "x": 1}))
    metadata = metadata_beside(tmp_path / "a.mp4", "a")
    assert metadata is not None
    assert metadata.prompt.compose() == 'A man\n\nDialogue:\n<Speaker, French>: "hi"'


def test_a_caption_in_fields_stands_alone(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"caption": "A man", "speaker_id": 0}))
    metadata = metadata_beside(tmp_path / "a.mp4", "a")
    assert metadata is not None and (metadata.prompt.description, metadata.speaker) == ("A man", "0")


def test_nothing_beside(tmp_path: Path) -> None:
    assert metadata_beside(tmp_path / "a.mp4", "a") is None
    (tmp_path / "a.json").write_text(json.dumps([1, 2]))
    assert metadata_beside(tmp_path / "a.mp4", "a") is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_text("größer 大", encoding=encoding)
    assert read_text(tmp_path / "a.txt") == "größer 大"


def test_another_encoding_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("größer", encoding="latin-1")
    with pytest.raises(ValueError, match=r"the \.txt is not UTF-8 \(at byte 2\)"):
        read_text(tmp_path / "a.txt")
