"""Statistics that add up over shards, and what a manifest refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hh_train.data.footage.files import DroppedClip
from hh_train.data.shards.manifest import (
    MANIFEST_FILE,
    Manifest,
    Moments,
    SampleRecord,
    ShardRecord,
    TokenizerRecord,
    differing_settings,
    write_json,
)

VALUES = torch.randn(3, 100, generator=torch.Generator().manual_seed(0)) * 2 + 1


def shard(number: int, split: str, *, dropped: bool = False) -> ShardRecord:
    sample = SampleRecord(key=f"{split}{number}", video=(2, 4, 4), audio=5, text=3)
    return ShardRecord(
        name=f"{split}-{number:06d}.tar",
        split=split,
        num_bytes=10,
        samples=() if dropped else (sample,),
        dropped=(DroppedClip(key="bad", split=split, reason="too short"),) if dropped else (),
        video=Moments() if dropped else Moments.of(VALUES[number], torch.float32),
        audio=Moments(),
    )


@pytest.fixture
def manifest() -> Manifest:
    names = ("video", "audio", "text")
    return Manifest(
        settings={"size": [64, 64]},
        frames_per_second=25.0,
        samples_per_second=16_000,
        tokenizers={n: TokenizerRecord(tokenizer_class="c", num_channels=len(n), fingerprint=f"{n}!") for n in names},
        shards=(shard(0, "train"), shard(1, "train"), shard(2, "train", dropped=True), shard(2, "test")),
        reconstruction={"video_psnr_db": 31.5},
    )


def test_moments_add_up_to_those_of_all_values() -> None:
    total = sum((Moments.of(row, torch.float32) for row in VALUES), Moments())
    assert total.mean == pytest.approx(float(VALUES.mean()), abs=1e-6)
    assert total.std == pytest.approx(float(VALUES.std(correction=0)), abs=1e-6)


def test_moments_are_those_of_the_stored_values() -> None:
    assert Moments.of(torch.tensor([1.0001]), torch.float16) == Moments.of(torch.tensor([1.0]), torch.float16)
    assert Moments.of(None, torch.float16).count == 0


def test_what_is_saved_is_loaded(manifest: Manifest, tmp_path: Path) -> None:
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest
    written = json.loads((tmp_path / MANIFEST_FILE).read_text())
    assert written["statistics"]["train"]["video"]["mean"] == pytest.approx(float(VALUES[:2].mean()), abs=1e-6)
    assert "audio" not in written["statistics"]["train"]  # nothing was counted


def test_contents(manifest: Manifest) -> None:
    assert manifest.splits == ("train", "test")
    assert [record.name for record in manifest.shards_of("train")] == ["train-000000.tar", "train-000001.tar"]
    assert [sample.key for sample in manifest.samples_of("train")] == ["train0", "train1"]
    assert manifest.samples_of("validation") == ()
    assert [clip.key for clip in manifest.dropped] == ["bad"]
    assert manifest.channels == {"video": 5, "audio": 5, "text": 4}


def test_other_tokenizers_are_refused_by_name(manifest: Manifest) -> None:
    manifest.require_compatible(manifest.fingerprints(), owner="the checkpoint")
    with pytest.raises(ValueError, match=r"the checkpoint .*audio \(other there, audio! here\)") as caught:
        manifest.require_compatible({**manifest.fingerprints(), "audio": "other"}, owner="the checkpoint")
    assert "video" not in str(caught.value)


def test_no_manifest_and_another_schema(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run `hh-train tokenize`"):
        Manifest.load(tmp_path)
    manifest.save(tmp_path)
    fields = json.loads((tmp_path / MANIFEST_FILE).read_text())
    write_json(tmp_path / MANIFEST_FILE, {**fields, "schema_version": 99})
    with pytest.raises(ValueError, match="schema version 99"):
        Manifest.load(tmp_path)


def test_differing_settings_are_named_with_both_values() -> None:
    saved = {"a": 1, "b": {"c": [1, 2], "d": 3}, "gone": True}
    wanted = {"a": 1, "b": {"c": [1, 3], "d": 3}}
    assert differing_settings(saved, wanted) == ["b.c: [1, 2] there, [1, 3] wanted", "gone: True there, None wanted"]
    assert differing_settings(saved, saved) == []


def test_json_appears_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": "ü"})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": "ü"}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
