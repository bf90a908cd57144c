"""Tables of clips under the names that people give their columns, and tables with rows that make no sense."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hh_train.data.footage.files import find_footage, read_metadata
from hh_train.data.footage.tables import read_table

ROWS = [
    {"video": "a.mp4", "caption": "A man", "transcript": "two\nthree", "lang": "en-US", "speaker": "Man"},
    {"video": "sub/b.mov", "caption": "A dog", "Background Sound": "barking"},
]


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


CSV = """video,caption,transcript,lang,speaker,Background Sound
a.mp4,A man,two three,en-US,Man,
sub/b.mov,A dog,,,,barking
"""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", CSV),
        ("t.csv", "\ufeff" + CSV.replace(",", ";")),
        ("t.csv", CSV.encode("utf-16")),
        ("t.CSV", CSV.replace("\n", "\r\n")),
        ("t.tsv", CSV.replace(",", "\t")),
        ("t.json", json.dumps(ROWS)),
        ("t.json", json.dumps({"clips": ROWS, "version": 1})),
        ("t.json", json.dumps({row["video"]: row for row in ROWS})),
        ("t.jsonl", "\n\n".join(map(json.dumps, ROWS))),
    ],
)
def test_the_kinds_of_table_say_the_same(tmp_path: Path, name: str, content: str | bytes) -> None:
    man, dog = read_table(written(tmp_path, name, content))
    assert (man.path, dog.path) == (tmp_path / "a.mp4", tmp_path / "sub" / "b.mov")
    assert man.metadata is not None and dog.metadata is not None
    assert man.metadata.prompt.compose() == 'A man\n\nDialogue:\n<Man, English>: "two three"'
    assert (man.metadata.transcript, man.metadata.language, man.metadata.speaker) == ("two three", "en", "Man")
    assert dog.metadata.prompt.compose() == "A dog\n\nBackground Sound:\n<barking>"
    assert (dog.metadata.transcript, dog.problem) == (None, None)


@pytest.mark.parametrize("column", ["path", "Video Path", "media-path", "file_name", "image"])
@pytest.mark.parametrize("caption", ["caption", "Text", "PROMPT", "cap"])
def test_names_of_columns(tmp_path: Path, column: str, caption: str) -> None:
    (media,) = read_table(written(tmp_path, "t.jsonl", json.dumps({column: "x.mp4", caption: ["first", "second"]})))
    assert media.path == tmp_path / "x.mp4"
    assert media.metadata is not None and media.metadata.prompt.description == "first"


def test_a_composed_prompt_in_a_table_is_taken_apart(tmp_path: Path) -> None:
    composed = 'A man\n\nDialogue:\n<Man, calm, German>: "ja"\n\nBackground Sound:\n<rain>'
    (media,) = read_table(written(tmp_path, "t.json", json.dumps([{"path": "x.mp4", "text": composed}])))
    assert media.metadata is not None and media.metadata.prompt.compose() == composed
    assert media.metadata.transcript == "ja"


def test_keys_and_splits_of_a_table(tmp_path: Path) -> None:
    table = written(
        tmp_path, "t.csv", "id,path,text,split\nx1,/far/away/a.mp4,t,val\n,sub/a.mp4,t,Training\nx2,sub/a.mp4,t,test\n"
    )
    files = {file.key: file for file in find_footage(table)}
    assert {key: file.split for key, file in files.items()} == {"x1": "validation", "sub_a": "train", "x2": "test"}
    assert files["x1"].path == Path("/far/away/a.mp4")
    assert read_metadata(files["x2"]).key == "x2"


def test_a_table_without_splits_is_split_by_hash(tmp_path: Path) -> None:
    rows = "".join(f"clip{number}.mp4,t\n" for number in range(40))
    files = find_footage(written(tmp_path, "t.csv", "path,text\n" + rows), held_out_share=0.1)
    assert [sum(file.split == split for file in files) for split in ("train", "validation", "test")] == [32, 4, 4]


def test_one_file_in_several_rows_is_several_clips(tmp_path: Path) -> None:
    files = find_footage(written(tmp_path, "t.csv", "path,text\na.mp4,one\na.mp4,two\n"), held_out_share=0.0)
    assert len({file.key for file in files}) == 2
    assert {read_metadata(file).prompt.description for file in files} == {"one", "two"}


def test_what_the_table_leaves_out_lies_beside_the_media(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The caption beside")
    table = written(tmp_path, "t.csv", "path,caption,transcript,language\na.mp4,,hello,English\nb.mp4,,,\n")
    a, b = find_footage(table)
    metadata = read_metadata(a)
    assert metadata.prompt.compose() == 'The caption beside\n\nDialogue:\n<Speaker, English>: "hello"'
    assert (metadata.key, metadata.transcript, metadata.language) == ("a", "hello", "en")
    with pytest.raises(ValueError, match="no caption"):
        read_metadata(b)
    assert read_metadata(b, caption_required=False).prompt.description == ""


@pytest.mark.parametrize(
    ("name", "content", "reasons"),
    [
        ("t.jsonl", b'{"path": "a.mp4"}\n{"path": \n[1]\n{"path": 3}\n{"path": "http://x/a.mp4"}\n',
         ["row 2 .*not JSON", r"row 3 .*\[1\]", "row 4 .*3", "row 5 .*address"]),
        ("t.csv", b"path,text\na.mp4,caf\xe9\n,nowhere\nb.mp4,fine\n", ["row 1 .*that is none", "row 2 .*None"]),
        ("t.csv", b"path,text,split\na.mp4,t,train\nb.mp4,t,holdout\n", ["row 2 .*split is 'holdout'"]),
        ("t.csv", b'path,text\na.mp4,one\nb.mp4,"two\nc.mp4,three\n', ["row 2 .*cannot be read"]),
        ("t.csv", b"path,text\n" + b"a.mp4," + b"x" * 200_000 + b"\nb.mp4,two\n", ["row 1 .*cannot be read"]),
        ("t.json", b'[{"path": "a.mp4", "text": {"no": "text"}}, {"path": "b\\u0000.mp4"}, null]',
         ["row 1 .*wanted text", "row 2 .*zero byte", "row 3 .*None"]),
    ],
)  # fmt: skip
def test_bad_rows_are_clips_with_a_problem(tmp_path: Path, name: str, content: bytes, reasons: list[str]) -> None:
    files = find_footage(written(tmp_path, name, content), held_out_share=0.0)
    problems = sorted(file.problem for file in files if file.problem)
    assert len(problems) == len(reasons)
    for file in files:
        if file.problem:
            with pytest.raises(ValueError, match=r"row \d+ of the table"):
                read_metadata(file)
    for problem, reason in zip(problems, reasons, strict=True):
        assert re.search(reason, problem)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("t.csv", "name,words\na,b\n", "no column of paths: got name, words; wanted one of path"),
        ("t.csv", "path,text\n", "has no rows"),
        ("t.csv", "", "has no rows"),
        ("t.json", "{", "is not JSON"),
        ("t.json", "[" * 100_000, "is not JSON"),
        ("t.json", "3", "no list of rows"),
        ("t.xlsx", "PK", "is a single file"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, name: str, content: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        find_footage(written(tmp_path, name, content))
