"""The towers keep the frames' clock, know nothing of light and level, and come back from disk as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hh_train.metrics.sync.embedding_distance import embedding_sync
from hh_train.metrics.sync.expert import SyncExpert, SyncExpertConfig, normalize_crops
from hh_train.metrics.sync.expert_training import MouthClip


def test_one_unit_embedding_a_frame(expert: SyncExpert, held_out: list[MouthClip]) -> None:
    clip = held_out[0]
    seen, heard = expert.embed(clip.crops, clip.waveform)
    assert seen.shape == heard.shape == (49, expert.config.embedding_size)
    assert torch.allclose(seen.norm(dim=1), torch.ones(49), atol=1e-5)
    assert torch.allclose(heard.norm(dim=1), torch.ones(49), atol=1e-5)
    short = expert.embed(clip.crops, clip.waveform[:-3000])[1]
    assert short.shape == heard.shape  # a track that ends early is silent there


def test_the_sound_s_embeddings_move_with_the_sound(expert: SyncExpert, held_out: list[MouthClip]) -> None:
    clip = held_out[1]
    _, heard = expert.embed(clip.crops, clip.waveform)
    _, late = expert.embed(clip.crops, torch.nn.functional.pad(clip.waveform, (5 * 640, -5 * 640)))
    assert torch.allclose(late[12:44], heard[7:39], atol=1e-3)
    assert not torch.allclose(late[12:44], heard[12:44], atol=0.1)


def test_light_and_level_do_not_matter(expert: SyncExpert, held_out: list[MouthClip]) -> None:
    clip = held_out[2]
    plain = embedding_sync(*expert.embed(clip.crops, clip.waveform))
    dark = (clip.crops.float() * 0.5 + 20).to(torch.uint8)
    other = embedding_sync(*expert.embed(dark, clip.waveform * 0.1))
    assert other.lse_d == pytest.approx(plain.lse_d, abs=0.1) and other.offset_frames == plain.offset_frames


def test_its_confidence_tells_its_own_sound_from_another_clip_s(expert: SyncExpert, held_out: list[MouthClip]) -> None:
    pairs = zip(held_out, [*held_out[1:], held_out[0]], strict=True)
    for clip, other in pairs:
        own = embedding_sync(*expert.embed(clip.crops, clip.waveform))
        foreign = embedding_sync(*expert.embed(clip.crops, other.waveform))
        assert own.lse_c > 1.3 * foreign.lse_c and own.at_zero < 0.8 * foreign.at_zero


def test_it_comes_back_from_disk(expert: SyncExpert, held_out: list[MouthClip], tmp_path: Path) -> None:
    expert.save(tmp_path / "expert")
    loaded = SyncExpert.load(tmp_path / "expert")
    assert loaded.config == expert.config and loaded.fingerprint() == expert.fingerprint() and not loaded.training
    clip = held_out[0]
    for mine, theirs in zip(
        expert.embed(clip.crops, clip.waveform), loaded.embed(clip.crops, clip.waveform), strict=True
    ):
        assert torch.equal(mine, theirs)
    with torch.no_grad():
        next(loaded.parameters()).add_(0.1)
    assert loaded.fingerprint() != expert.fingerprint()


def test_what_is_no_expert_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no sync expert .* train_sync_expert"):
        SyncExpert.load(tmp_path)
    with pytest.raises(ValueError, match="multiple of 8"):
        SyncExpert(config=SyncExpertConfig(side=20))


def test_crops_are_normalized_over_the_clip() -> None:
    crops = torch.randint(20, 200, (5, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    found = normalize_crops(crops)
    assert float(found.mean()) == pytest.approx(0, abs=1e-5) and float(found.std()) == pytest.approx(1, abs=1e-5)
    assert torch.isfinite(normalize_crops(torch.full((5, 16, 16), 7, dtype=torch.uint8))).all()
