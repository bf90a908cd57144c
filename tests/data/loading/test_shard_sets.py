"""Sets that go together, and those that do not."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hh_train.data.loading.shard_sets import Reading, ShardSet, common_null_text, open_shard_sets
from hh_train.data.shards.format import write_null_text
from hh_train.data.shards.manifest import Manifest, Moments, SampleRecord, ShardRecord, TokenizerRecord


def write(folder: Path, *, fingerprint: str = "f", split: str = "train", null: float = 0.0, **changes: Any) -> str:
    folder.mkdir()
    (folder / "train-000000.tar").write_bytes(bytes(10))
    shard = ShardRecord(
        name="train-000000.tar",
        split=split,
        num_bytes=10,
        samples=(SampleRecord(key="a", video=(1, 2, 2), audio=1, text=1),),
        dropped=(),
        video=Moments(),
        audio=Moments(),
    )
    codec = TokenizerRecord(tokenizer_class="c", num_channels=1, fingerprint="f")
    manifest = Manifest(
        settings={},
        frames_per_second=25.0,
        samples_per_second=16_000,
        tokenizers={"video": codec, "audio": replace(codec, fingerprint=fingerprint)},
        shards=(shard,),
    )
    replace(manifest, **changes).save(folder)
    write_null_text(folder, torch.full((2, 3), null))
    return str(folder)


def test_a_folder_a_set_and_several_are_opened(tmp_path: Path) -> None:
    one, two = write(tmp_path / "one"), write(tmp_path / "two")
    assert [opened.storage.root for opened in open_shard_sets(one, Reading())] == [one]
    several = open_shard_sets([one, ShardSet(path=two, weight=2.0)], Reading(cache_folder=str(tmp_path / "cache")))
    assert [opened.settings.weight for opened in several] == [None, 2.0]
    assert [opened.cache for opened in several] == [None, None]  # what is on disk needs no copy
    assert torch.equal(common_null_text(several), torch.zeros(2, 3))


def test_sets_must_go_together(tmp_path: Path) -> None:
    one = write(tmp_path / "one")
    with pytest.raises(ValueError, match=r"audio \(f there, g here\)"):
        open_shard_sets([one, write(tmp_path / "codec", fingerprint="g")], Reading())
    with pytest.raises(ValueError, match=r"frames_per_second: 25 in .*one, 24 in .*rate"):
        open_shard_sets([one, write(tmp_path / "rate", frames_per_second=24.0)], Reading())
    with pytest.raises(ValueError, match=r"samples_per_second: 16000 in .*one, 8000 in"):
        open_shard_sets([one, write(tmp_path / "sound", samples_per_second=8000)], Reading())
    with pytest.raises(ValueError, match=r"order differs in patch_order: 'other' there, 'c pT pH pW in, .*' here"):
        open_shard_sets(write(tmp_path / "order", patch_order="other"), Reading())
    with pytest.raises(ValueError, match=r"null prompt of .*null is not that of .*one"):
        common_null_text(open_shard_sets([one, write(tmp_path / "null", null=1.0)], Reading()))


def test_sets_must_be_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(logging.getLogger("hh_train"), "propagate", True)
    with pytest.raises(ValueError, match="got no shards"):
        open_shard_sets([], Reading())
    with pytest.raises(ValueError, match="run `hh-train tokenize`"):
        open_shard_sets(str(tmp_path), Reading())
    with pytest.raises(ValueError, match="no training clips"):
        open_shard_sets(write(tmp_path / "untrained", split="validation"), Reading())
    folder = Path(write(tmp_path / "one"))
    (folder / "train-000000.tar").write_bytes(bytes(9))
    open_shard_sets(str(folder), Reading())
    assert "has 9 bytes, not 10" in caplog.text
    (folder / "train-000000.tar").unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of the 1 shards .*: train-000000\.tar; copy"):
        open_shard_sets(str(folder), Reading())


def test_clip_weights_are_numbers_by_key(tmp_path: Path) -> None:
    path = tmp_path / "weights.json"
    path.write_text(json.dumps({"a": 2, "b": 0.5}))
    assert ShardSet(path="x", clip_weights=str(path)).read_clip_weights() == {"a": 2.0, "b": 0.5}
    assert ShardSet(path="x").read_clip_weights() == {}
    for text in ("[1]", '{"a": "much"}', "{", '{"a": null}'):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"cannot read the clip weights .*wanted a JSON file"):
            ShardSet(path="x", clip_weights=str(path)).read_clip_weights()
    with pytest.raises(ValueError, match="cannot read the clip weights"):
        ShardSet(path="x", clip_weights=str(tmp_path / "none.json")).read_clip_weights()


@pytest.mark.parametrize(
    "arguments", [{"retries": -1}, {"cache_gigabytes": 0.0}, {"prefetch_batches": 0}, {"threads": -1}]
)
def test_senseless_numbers_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Reading(**arguments)
