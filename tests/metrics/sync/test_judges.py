"""A judge says what the embeddings say, and an offset only where it can be no chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from hh_train.metrics.measurer import Sample
from hh_train.metrics.sync.embedding_distance import embedding_sync
from hh_train.metrics.sync.expert import SyncExpert
from hh_train.metrics.sync.judges import ExpertJudge, SyncNetJudge, json_numbers
from hh_train.metrics.sync.syncnet import SyncNet, crop_faces
from hh_train.types import Clip


def sample(clip: Clip) -> Sample:
    return Sample(key="clip", clip=clip, transcript=None, language=None)


@pytest.fixture
def judge(expert: SyncExpert) -> Iterator[ExpertJudge]:
    """Takes no offset for certain below a confidence of 0.5."""
    before = expert.config
    expert.config = replace(before, least_confidence=0.5)
    yield ExpertJudge(expert=expert)
    expert.config = before


def test_the_expert_finds_shifts_finer_than_a_frame(judge: ExpertJudge, speaker: Callable[..., Clip]) -> None:
    errors = []
    for lead in (-5.0, -1.5, 0.0, 2.5, 6.0):
        found = judge.judge(sample(speaker(200, num_frames=61, lead_seconds=lead / 25))).values
        offset = found["expert_offset_frames"]
        assert isinstance(offset, float)
        errors.append(abs(offset - lead))
        assert found["expert_offset_ms"] == pytest.approx(40 * offset)
        assert found["expert_within_one_frame"] == float(abs(offset) <= 1)
        assert found["expert_desync_seconds"] == pytest.approx(abs(lead) / 25, abs=0.03)
    assert max(errors) <= 0.5


def test_both_ends_of_a_long_clip_count(judge: ExpertJudge, speaker: Callable[..., Clip]) -> None:
    """In step first, 0.24 s late at the end: the mean of both."""
    clip = speaker(201, num_frames=300)
    late = speaker(201, num_frames=300, lead_seconds=-0.24)
    assert clip.waveform is not None and late.waveform is not None
    both = replace(clip, waveform=torch.cat((clip.waveform[: 150 * 640], late.waveform[150 * 640 :])))
    assert judge.judge(sample(both)).values["expert_desync_seconds"] == pytest.approx(0.12, abs=0.02)


def test_where_nothing_matches_there_is_no_offset(judge: ExpertJudge, speaker: Callable[..., Clip]) -> None:
    found = judge.judge(sample(speaker(200, num_frames=61, said_by=77)))
    assert "expert_offset_frames" not in found.values and found.values["expert_within_one_frame"] == 0.0
    assert found.notes == ["the sync expert finds that sound and mouth match at no offset"]
    assert len(found.details["expert_distances"]) == 31


def test_the_best_match_is_told_beside_chance(judge: ExpertJudge, speaker: Callable[..., Clip]) -> None:
    """However unsure the expert is, as of noisy sound; another clip's sound matches elsewhere."""
    clips = [speaker(seed, num_frames=61) for seed in range(210, 220)]
    noisy = [
        replace(c, waveform=c.waveform + 0.02 * torch.randn(len(c.waveform))) for c in clips if c.waveform is not None
    ]
    found = [judge.judge(sample(clip)) for clip in noisy]
    best = [one.values["expert_best_within_one_frame"] for one in found]
    assert sum(v == 1.0 for v in best) >= 9
    chance = ExpertJudge.chance([one.features for one in found])
    assert len(chance) == 10 and sum(chance) <= 5
    late = judge.judge(sample(speaker(210, num_frames=61, lead_seconds=-0.2))).values
    assert late["expert_best_within_one_frame"] == 0.0
    assert ExpertJudge.chance([found[0].features]) == []


def test_syncnet_s_scores_are_those_of_its_embeddings(speaker: Callable[..., Clip]) -> None:
    torch.manual_seed(0)
    network = SyncNet().eval()
    clip = sample(speaker(203, num_frames=13))
    assert clip.clip.waveform is not None
    expected = embedding_sync(
        *network.embed(crop_faces(clip.clip.frames, clip.face.boxes), clip.clip.waveform), max_shift=3, edge="zero"
    )
    judge = SyncNetJudge(network=network, edge="zero", max_shift=3)
    found = judge.judge(clip)
    assert [found.values[name] for name in ("lse_c", "lse_d", "lse_at_zero", "lse_offset_frames")] == [
        expected.lse_c, expected.lse_d, expected.at_zero, expected.offset_frames,
    ]  # fmt: skip
    assert found.values["lse_absolute_offset_frames"] == abs(expected.offset_frames)
    assert set(found.values) == {measure.name for measure in SyncNetJudge.measures}
    assert judge.protocol() == {
        "syncnet": network.fingerprint(), "syncnet_edge": "zero", "syncnet_max_shift": "3",
    }  # fmt: skip


def test_another_frame_rate_is_refused(judge: ExpertJudge, speaker: Callable[..., Clip]) -> None:
    with pytest.raises(ValueError, match="got 30 frames a second; sync networks want 25"):
        judge.judge(sample(speaker(frames_per_second=30.0)))


def test_json_has_no_nan() -> None:
    assert json_numbers([1.23456, math.nan], 2) == [1.23, None]
