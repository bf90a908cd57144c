"""A reference comes back as it was written, and only for the extractors that made it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hh_train.metrics.distribution.reference import read_reference, write_reference

CLIPS = {
    "a": {"video": torch.arange(6.0).reshape(2, 3), "sound": torch.ones(1, 2)},
    "b": {"video": torch.full((1, 3), 7.0)},
}
MADE_BY = {"video": "net 1", "sound": "mel 1"}


def test_rows_come_back_by_clip(tmp_path: Path) -> None:
    path = write_reference(tmp_path / "new" / "reference.safetensors", CLIPS, extractors=MADE_BY)
    found = read_reference(path, extractors=MADE_BY)
    assert {key: set(features) for key, features in found.items()} == {"a": {"video", "sound"}, "b": {"video"}}
    for key, features in CLIPS.items():
        for kind, rows in features.items():
            assert torch.equal(found[key][kind], rows.double())
    assert set(read_reference(path, extractors={"sound": "mel 1"})) == {"a"}
    assert [file.name for file in path.parent.iterdir()] == ["reference.safetensors"]


def test_other_extractors_and_other_files_are_refused(tmp_path: Path) -> None:
    path = write_reference(tmp_path / "reference.safetensors", CLIPS, extractors=MADE_BY)
    with pytest.raises(ValueError, match="video features of net 1; these clips' are of net 2"):
        read_reference(path, extractors={"video": "net 2"})
    with pytest.raises(ValueError, match="text features of nothing"):
        read_reference(path, extractors={"text": "words"})
    with pytest.raises(ValueError, match="there is no reference"):
        read_reference(tmp_path / "missing", extractors=MADE_BY)
    (tmp_path / "torn").write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match="is no reference"):
        read_reference(tmp_path / "torn", extractors=MADE_BY)


def test_features_of_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"got features \[\]"):
        write_reference(tmp_path / "a", {"a": {}}, extractors=MADE_BY)
    with pytest.raises(ValueError, match=r"extractors \['sound'\]"):
        write_reference(tmp_path / "a", CLIPS, extractors={"sound": "mel 1"})
