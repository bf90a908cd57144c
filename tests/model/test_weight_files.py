"""Folders of weights: parts are read as they were written, and every fault of the files is told at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hh_train.model.weight_files import INDEX_FILE, WeightFiles

A = torch.arange(12.0).reshape(4, 3)
B = torch.arange(5.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Tensors a [4, 3] in one file and b [5] in another."""
    save_file({"a": A}, tmp_path / "one.safetensors")
    save_file({"b": B.bfloat16()}, tmp_path / "two.safetensors")
    write_index(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    return tmp_path


def write_index(folder: Path, weight_map: object) -> None:
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map}))


def faults(folder: Path, **wanted: tuple[int, ...]) -> str:
    with pytest.raises(ValueError) as caught:
        WeightFiles.scan(folder).require_fit(wanted or {"a": (4, 3), "b": (5,)})
    return str(caught.value)


def test_a_whole_folder_fits(folder: Path) -> None:
    files = WeightFiles.scan(folder)
    files.require_fit({"a": (4, 3), "b": (5,)})
    assert files.tensors["b"].dtype == torch.bfloat16 and files.tensors["a"].file.name == "one.safetensors"


def test_reading_casts_and_parts_are_parts(folder: Path) -> None:
    files = WeightFiles.scan(folder)
    b = files.read("b", dtype=torch.float32, device="cpu")
    assert b.dtype == torch.float32 and torch.equal(b, B)
    part = torch.empty(2, 3)
    files.copy_into(part, "a", (slice(1, 3), slice(0, 3)))
    assert torch.equal(part, A[1:3])


def test_faults_of_several_files_are_told_at_once(folder: Path) -> None:
    (folder / "one.safetensors").write_bytes((folder / "one.safetensors").read_bytes()[:-4])
    (folder / "two.safetensors").unlink()
    told = faults(folder, a=(4, 3), b=(5,), c=(1,))
    assert "unreadable (truncated?): one.safetensors" in told
    assert "no file two.safetensors" in told
    assert "missing: c (1,)" in told
    assert "missing: a" not in told and "missing: b" not in told  # what the files' faults explain


def test_an_index_that_names_what_a_file_lacks(folder: Path) -> None:
    write_index(folder, {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"})
    told = faults(folder, a=(4, 3), b=(5,), c=(1,))
    assert "not in its file: b, which the index places in one.safetensors" in told
    assert "not in its file: c, which the index places in two.safetensors" in told
    assert "not in the index: b, which lies in two.safetensors" in told


def test_shapes_names_and_types(folder: Path) -> None:
    save_file({"a": A.T.contiguous(), "d": torch.zeros(1, dtype=torch.int8)}, folder / "one.safetensors")
    write_index(folder, {"a": "one.safetensors", "d": "one.safetensors", "b": "two.safetensors"})
    told = faults(folder, a=(4, 3), d=(1,), c=(2,))
    assert "misshapen: a is (3, 4), the config wants (4, 3)" in told
    assert "unexpected: b (5,)" in told
    assert "missing: c (2,)" in told
    assert "of no usable type: d; wanted one of F32, BF16, F16" in told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "has no weight_map"),
        ('{"weight_map": {}}', "has no weight_map"),
        (
            '{"weight_map": {"a": "../one.safetensors", "b": 3}}',
            r"in '\.\./one\.safetensors', 3; wanted names of files",
        ),
    ],
)
def test_bad_indices(folder: Path, text: str, message: str) -> None:
    (folder / INDEX_FILE).write_text(text)
    with pytest.raises(ValueError, match=message):
        WeightFiles.scan(folder)


def test_an_index_that_is_no_text(folder: Path) -> None:
    (folder / INDEX_FILE).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is no JSON"):
        WeightFiles.scan(folder)


def test_pickles_are_refused_by_name(tmp_path: Path) -> None:
    for name in ("diffusion_pytorch_model-00001-of-00002.bin", "diffusion_pytorch_model-00002-of-00002.bin"):
        torch.save({"a": A}, tmp_path / name)
    (tmp_path / "config.json").write_text('{"_class_name": "Transformer"}')
    with pytest.raises(ValueError, match=r"pickles \(diffusion.*00001.*00002-of-00002\.bin\).*can run code"):
        WeightFiles.scan(tmp_path)


def test_other_folders_say_what_they_hold(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such folder"):
        WeightFiles.scan(tmp_path / "nowhere")
    (tmp_path / "transformer").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"it holds model_index\.json, transformer/"):
        WeightFiles.scan(tmp_path)


def test_one_file_needs_no_index(tmp_path: Path) -> None:
    save_file({"a": A}, tmp_path / "model.safetensors")
    WeightFiles.scan(tmp_path).require_fit({"a": (4, 3)})
    (tmp_path / "model.safetensors").write_bytes(b"")
    told = faults(tmp_path)
    assert "unreadable (truncated?): model.safetensors" in told and "missing" not in told
