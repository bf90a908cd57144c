"""Tables of clips: .csv, .tsv, .json and .jsonl with the names of columns that people use."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from hh_train.data.footage.captions import NAMES, fields_by_name, metadata_from_fields, plain_name
from hh_train.data.footage.media_folder import FoundMedia

TABLE_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl")
PATH_NAMES = (
    "path", "video", "video_path", "file", "file_path", "filename", "file_name", "media", "media_path", "clip",
    "image", "image_path",
)  # fmt: skip
KEY_NAMES = ("key", "id", "clip_id", "video_id")
SPLIT_NAMES = ("split", "subset", "partition")
_SPLITS = {
    "train": "train", "training": "train", "validation": "validation", "val": "validation", "valid": "validation",
    "dev": "validation", "test": "test", "testing": "test",
}  # fmt: skip


def read_table(path: Path) -> list[FoundMedia]:
    """The clips of a table; a row that makes no sense is a clip with a problem.

    Paths count from the table's folder. A row without a caption leaves it to what lies beside the media.

    Raises:
        ValueError: the table cannot be read at all, is empty, or has no column of paths.
    """
    text = _text(path)
    kind = path.suffix.lower()
    if kind == ".json":
        rows = _rows_of_json(text, path)
    elif kind == ".jsonl":
        rows = list(_rows_of_lines(text))
    else:
        head = text.partition("\n")[0]
        rows = list(_rows_of_csv(text, "\t" if kind == ".tsv" else max(",;\t", key=head.count)))
    names = {plain_name(name) for row in rows if isinstance(row, Mapping) for name in row if isinstance(name, str)}
    if not rows:
        raise ValueError(f"the table {path} has no rows")
    if not names & set(PATH_NAMES):
        raise ValueError(
            f"the table {path} has no column of paths: got {', '.join(sorted(names)) or 'no columns'}; "
            f"wanted one of {', '.join(PATH_NAMES)}, and for captions one of {', '.join(NAMES['description'])}"
        )
    return [_media_of_row(row, number, path.parent) for number, row in enumerate(rows, start=1)]


def _text(path: Path) -> str:
    """Bytes that are no text become lone surrogates, which make their row a problem and leave the others alone."""
    content = path.read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    return content.decode("utf-8-sig", errors="surrogateescape")


def _rows_of_csv(text: str, separator: str) -> Iterator[Any]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            yield f"the row cannot be read: {error}"
            continue
        if row is None:
            return
        yield row


def _rows_of_lines(text: str) -> Iterator[Any]:
    for line in text.split("\n"):
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                yield f"the row is not JSON: {error}"


def _rows_of_json(text: str, path: Path) -> list[Any]:
    """A list of rows, a list under any single name, or rows by the paths of their media."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the table {path} is not JSON: {error}") from error
    if isinstance(content, Mapping):
        lists = [value for value in content.values() if isinstance(value, list)]
        if len(lists) == 1:
            content = lists[0]
        elif content and all(isinstance(value, Mapping) for value in content.values()):
            content = [{"path": name, **row} for name, row in content.items()]
        elif content and all(isinstance(value, str) for value in content.values()):
            content = [{"path": name, "caption": caption} for name, caption in content.items()]
    if not isinstance(content, list):
        raise ValueError(f'the table {path} is no list of rows: wanted [{{"path": ..., "caption": ...}}, ...]')
    return content


def _media_of_row(row: Any, number: int, folder: Path) -> FoundMedia:
    nowhere = FoundMedia(path=folder / f"row_{number}", name=f"row_{number}")
    if not isinstance(row, Mapping):
        return _problem(nowhere, number, row if isinstance(row, str) else f"it is {row!r}, wanted names and values")
    values = {
        plain_name(name): value for name, value in row.items() if isinstance(name, str) and value not in (None, "")
    }
    written = next((values[name] for name in PATH_NAMES if name in values), None)
    if not isinstance(written, str):
        return _problem(nowhere, number, f"its path is {written!r}, wanted the name of a file")
    if "://" in written:
        return _problem(nowhere, number, f"its path {written!r} is an address, wanted a file")
    media = FoundMedia(path=folder / written, name=_name(written, values, folder))
    try:
        media = replace(media, split=_split(values))
        _require_text(written)
        fields = fields_by_name({name: value for name, value in row.items() if isinstance(name, str)})
        metadata = metadata_from_fields(fields, "") if fields else None
    except ValueError as error:
        return _problem(media, number, str(error))
    return replace(media, metadata=metadata)


def _name(written: str, values: Mapping[str, Any], folder: Path) -> str:
    given = next((values[name] for name in KEY_NAMES if name in values), None)
    if isinstance(given, str | int):
        return f"{given}{Path(written).suffix}"
    path = PurePath(written)
    inside = path.relative_to(folder) if path.is_absolute() and path.is_relative_to(folder) else path
    return inside.as_posix().lstrip("/")


def _split(values: Mapping[str, Any]) -> str | None:
    given = next((values[name] for name in SPLIT_NAMES if name in values), None)
    if given is None:
        return None
    split = _SPLITS.get(str(given).strip().lower())
    if split is None:
        raise ValueError(f"its split is {given!r}, wanted one of {', '.join(_SPLITS)}")
    return split


def _require_text(written: str) -> None:
    try:
        written.encode()
    except UnicodeEncodeError as error:
        raise ValueError("it is not UTF-8") from error
    if "\0" in written:
        raise ValueError("its path has a zero byte")


def _problem(media: FoundMedia, number: int, reason: str) -> FoundMedia:
    return replace(media, problem=f"row {number} of the table: {reason}")
