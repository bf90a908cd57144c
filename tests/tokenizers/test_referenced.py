"""Codecs by reference: what is written, what tells two of them apart, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hh_train.tokenizers import load_tokenizer
from hh_train.tokenizers.referenced import ReferencedTokenizer, by_shape, file_digest, weight_files


class Reference(ReferencedTokenizer):
    """A codec whose model is a tensor."""

    further_files = ("words.json",)

    def __init__(self, *, source: str, subfolder: str | None = None, revision: str | None = None, **rest: Any) -> None:
        rest = {"dtype": "float32", "device": None, "content": None, **rest}
        super().__init__(source=source, subfolder=subfolder, revision=revision, **rest)


def write_model(folder: Path, value: float = 1.0, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"width": 3, "_class_name": "Any", **config}))
    save_file({"weight": torch.full((3,), value)}, folder / "model.safetensors")
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


def test_a_reference_holds_no_weights_and_is_read_back(source: Path, tmp_path: Path) -> None:
    tokenizer = Reference(source=str(source), dtype="bfloat16")
    tokenizer.save_pretrained(tmp_path / "saved")
    assert [path.name for path in (tmp_path / "saved").iterdir()] == ["config.json"]
    loaded = Reference.from_pretrained(tmp_path / "saved")
    assert loaded.fingerprint() == tokenizer.fingerprint()
    assert loaded.dtype == torch.bfloat16
    assert loaded.folder == source


def test_a_subfolder_is_part_of_the_reference(tmp_path: Path) -> None:
    write_model(tmp_path / "repository" / "vae")
    tokenizer = Reference(source=str(tmp_path / "repository"), subfolder="vae")
    assert tokenizer.folder == tmp_path / "repository" / "vae"
    assert tokenizer.location()["subfolder"] == "vae"


def test_a_moved_model_is_the_same_codec(source: Path, tmp_path: Path) -> None:
    before = Reference(source=str(source))
    identity = before.fingerprint(), before.settings()
    source.rename(tmp_path / "elsewhere")
    after = Reference(source=str(tmp_path / "elsewhere"), device="cpu")
    assert (after.fingerprint(), after.settings()) == identity


def test_who_saved_the_model_does_not_matter(source: Path) -> None:
    before = Reference(source=str(source)).content
    write_model(source, transformers_version="9.9", _name_or_path="here", torch_dtype="float32")
    assert Reference(source=str(source)).content == before


@pytest.mark.parametrize("change", ["weights", "configuration", "words", "dtype"])
def test_what_changes_latents_changes_the_fingerprint(source: Path, change: str) -> None:
    before = Reference(source=str(source)).fingerprint()
    if change == "weights":
        write_model(source, 1.0001)
    elif change == "configuration":
        write_model(source, width=4)
    elif change == "words":
        (source / "words.json").write_text("{}")
    after = Reference(source=str(source), dtype="float16" if change == "dtype" else "float32")
    assert after.fingerprint() != before


def test_changed_weights_are_refused_when_read_back(source: Path, tmp_path: Path) -> None:
    Reference(source=str(source)).save_pretrained(tmp_path / "saved")
    write_model(source, 2.0)
    changed = Reference.from_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"has the content .*, wanted .*: these are not the weights"):
        changed.fingerprint()


@pytest.mark.parametrize(
    ("source", "message"),
    [("/nowhere/at/all", "does not exist"), ("./models/vae", "does not exist"), ("some/model", "neither a folder")],
)
def test_a_source_that_is_not_there_is_told(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=message):
        Reference(source=source).fingerprint()


def test_an_id_is_found_in_the_hubs_cache_and_pinned(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, repository = "c0ffee" * 6 + "c0ff", tmp_path / "cache" / "models--some--model"
    snapshot = repository / "snapshots" / commit / "vae"
    for folder in (snapshot, repository / "refs", repository / "blobs"):
        folder.mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    for path in source.iterdir():
        blob = repository / "blobs" / file_digest(path)
        blob.write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(blob)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    tokenizer = Reference(source="some/model", subfolder="vae")
    assert tokenizer.folder == snapshot
    assert tokenizer.location() == {"source": "some/model", "subfolder": "vae", "revision": commit}
    assert tokenizer.fingerprint() == Reference(source=str(source)).fingerprint()
    tokenizer.save_pretrained(tmp_path / "saved")
    assert Reference.from_pretrained(tmp_path / "saved").folder == snapshot


def test_a_source_without_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no config\.json"):
        Reference(source=str(tmp_path)).fingerprint()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no model\.safetensors"):
        Reference(source=str(tmp_path)).fingerprint()


def test_the_dtype_is_checked_at_once(source: Path) -> None:
    with pytest.raises(ValueError, match="got dtype 'half'; wanted one of float32, bfloat16, float16"):
        Reference(source=str(source), dtype="half")


def test_weights_in_several_files(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-2.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "model-1.safetensors").touch()
    with pytest.raises(ValueError, match=r"lacks model-2\.safetensors, which model\.safetensors\.index\.json names"):
        weight_files(tmp_path, "model.safetensors")
    (tmp_path / "model-2.safetensors").touch()
    (tmp_path / "model.fp16.safetensors").touch()
    found = weight_files(tmp_path, "model.safetensors")
    assert [path.name for path in found] == ["model-1.safetensors", "model-2.safetensors"]


def test_digests_of_files(tmp_path: Path) -> None:
    (tmp_path / "abc").write_text("abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of SHA-256's standard
    assert file_digest(tmp_path / "abc") == known
    blob = tmp_path / "blobs" / ("0f" * 32)
    blob.parent.mkdir()
    blob.write_text("not read")
    (tmp_path / "linked").symlink_to(blob)
    assert file_digest(tmp_path / "linked") == "0f" * 32


def test_a_folder_names_its_class(source: Path, tmp_path: Path) -> None:
    Reference(source=str(source)).save_pretrained(tmp_path / "saved")
    fields = json.loads((tmp_path / "saved" / "config.json").read_text())
    fields["class"] = "hh_train.tokenizers.referenced.by_shape"
    (tmp_path / "saved" / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match="no PretrainedTokenizer"):
        load_tokenizer(tmp_path / "saved")


def test_tensors_are_grouped_by_shape() -> None:
    tensors = [torch.zeros(2), torch.zeros(3), torch.zeros(2), torch.zeros(2, 1), torch.zeros(3)]
    assert by_shape(tensors) == [[0, 2], [1, 4], [3]]
