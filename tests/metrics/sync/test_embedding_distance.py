"""Distances and scores are those of SyncNet's protocol, written out in NumPy; the two edges differ as they should."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hh_train.metrics.sync.embedding_distance import LipSyncError, embedding_sync, shift_distances


def walk(count: int, seed: int, size: int = 12) -> torch.Tensor:
    """Embeddings that wander, as neighboring windows do."""
    generator = torch.Generator().manual_seed(seed)
    return torch.cumsum(torch.randn(count, size, generator=generator), dim=0) * 0.3 + torch.randn(
        count, size, generator=generator
    )


def protocol(video: np.ndarray, audio: np.ndarray, reach: int) -> np.ndarray:
    """Distances over shifts of the published code: zeros beyond the sound, 1e-6 added under the norm."""
    count = len(video)
    zeros = np.zeros((reach, audio.shape[1]))
    padded = np.concatenate((zeros, audio, zeros))
    table = np.zeros((count, 2 * reach + 1))
    for t in range(count):
        for k in range(2 * reach + 1):
            table[t, k] = math.sqrt(sum((v - a + 1e-6) ** 2 for v, a in zip(video[t], padded[t + k], strict=True)))
    return table.mean(axis=0)


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_the_protocol(seed: int) -> None:
    video = walk(40, seed)
    audio = torch.roll(video, 4 - 3 * seed, dims=0) + 0.2 * walk(40, seed + 10)
    expected = protocol(video.numpy().astype(float), audio.numpy().astype(float), 15)
    found = embedding_sync(video, audio, edge="zero")
    assert np.allclose(found.distances, expected, atol=1e-4)
    assert found.offset_frames == 15 - int(expected.argmin())
    assert found.lse_d == pytest.approx(expected.min(), abs=1e-4)
    assert found.lse_c == pytest.approx(np.median(expected) - expected.min(), abs=1e-4)
    assert found.at_zero == pytest.approx(expected[15], abs=1e-4)


@pytest.mark.parametrize("edge", ["zero", "mask"])
@pytest.mark.parametrize("lead", [-6, -1, 0, 2, 7])
def test_a_positive_offset_says_that_the_sound_leads(edge: str, lead: int) -> None:
    video = walk(60, 1)
    audio = torch.roll(video, -lead, dims=0)  # what is seen at t was heard `lead` frames before
    found = embedding_sync(video, audio, edge=edge)
    assert found.offset_frames == lead
    assert abs(found.refined_offset_frames - lead) <= 0.5
    assert found.lse_d < found.at_zero or lead == 0


def test_the_mask_compares_only_what_exists() -> None:
    """The same distance wherever pairs exist, not pulled to the norm of a zero embedding."""
    video = torch.zeros(30, 4)
    audio = torch.full((30, 4), 3.0)
    masked, padded = shift_distances(video, audio, edge="mask"), shift_distances(video, audio, edge="zero")
    assert torch.allclose(masked, torch.tensor(6.0), atol=1e-4)
    assert padded[15] == pytest.approx(6.0, abs=1e-4)
    assert padded[0] == pytest.approx(3.0, abs=1e-3)  # half of the windows meet nothing


def test_a_zero_edge_makes_the_confidence_depend_on_the_length() -> None:
    """Embeddings of a like norm that have nothing in common but at shift zero."""
    generator = torch.Generator().manual_seed(0)
    confidence: dict[str, list[float]] = {"zero": [], "mask": []}
    for count in (24, 400):
        audio = torch.nn.functional.normalize(torch.randn(count, 256, generator=generator), dim=1)
        for edge, found in confidence.items():
            found.append(embedding_sync(audio.clone(), audio, edge=edge).lse_c)
    assert confidence["mask"][0] == pytest.approx(confidence["mask"][1], rel=0.02)
    assert confidence["zero"][0] < 0.95 * confidence["zero"][1]


def test_shifts_with_few_windows_in_common_are_unknown() -> None:
    found = embedding_sync(walk(20, 0), walk(20, 1), edge="mask")
    known = [not math.isnan(value) for value in found.distances]
    assert known == [abs(shift) <= 12 for shift in range(-15, 16)]


def test_a_shift_between_frames_is_refined() -> None:
    angles = torch.arange(60)[:, None] / torch.tensor([9.0, 5.0, 3.0])
    moved = angles - 0.4 / torch.tensor([9.0, 5.0, 3.0])  # the sound comes 0.4 frames late
    video = torch.cat((angles.sin(), angles.cos()), dim=1)
    audio = torch.cat((moved.sin(), moved.cos()), dim=1)
    assert embedding_sync(video, audio).refined_offset_frames == pytest.approx(-0.4, abs=0.12)


def test_the_metric_averages_clips() -> None:
    metric = LipSyncError()
    for lead in (0, 3):
        video = walk(50, lead)
        metric.update(str(lead), video, torch.roll(video, -lead, dims=0))
    scores = metric.compute()
    assert scores["absolute_offset_frames"].mean == pytest.approx(1.5)
    assert scores["lse_d"].mean == pytest.approx(0.0, abs=1e-4)
    assert scores["at_zero_distance"].mean is not None and scores["at_zero_distance"].mean > 0.5


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="a clip this short has no offset"):
        embedding_sync(walk(8, 0), walk(8, 1))
    with pytest.raises(ValueError, match="max_shift 0"):
        shift_distances(walk(8, 0), walk(8, 1), max_shift=0)
