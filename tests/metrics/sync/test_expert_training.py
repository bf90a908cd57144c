"""An expert trained in seconds finds known shifts of heads it has not seen; a training repeats bit for bit."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from hh_train.metrics.sync.expert import SyncExpert, SyncExpertConfig
from hh_train.metrics.sync.expert_training import (
    KNOWN_SHIFTS,
    KnownShifts,
    MatchedSound,
    MouthClip,
    TrainingProgress,
    calibrate,
    confidence,
    contrastive_loss,
    found_shifts,
    train,
)


def test_known_shifts_of_unseen_heads_are_found(expert: SyncExpert, held_out: list[MouthClip]) -> None:
    """Positive: the sound is made to lead."""
    metric = KnownShifts()
    for clip in held_out:
        metric.update(clip, expert)
        assert set(found_shifts(clip, expert)) == set(KNOWN_SHIFTS)
    scores = metric.compute()
    within, error = scores["within_half_frame"].mean, scores["absolute_error_frames"].mean
    assert within is not None and within > 0.9
    assert error is not None and error < 0.5


def test_an_expert_that_was_not_trained_finds_none(held_out: list[MouthClip]) -> None:
    torch.manual_seed(0)
    metric = KnownShifts()
    untrained = SyncExpert(config=SyncExpertConfig(side=16, width=24)).eval()
    for clip in held_out:
        metric.update(clip, untrained)
    within = metric.compute()["within_half_frame"].mean
    assert within is not None and within < 0.4


def test_calibration_separates_own_sound_from_another_clip_s(expert: SyncExpert, held_out: list[MouthClip]) -> None:
    before = expert.config
    try:
        calibrate(expert, held_out)
        swapped = sorted(
            confidence(clip, held_out[(i + step) % 8].waveform, expert) or 0.0
            for i, clip in enumerate(held_out)
            for step in range(1, 6)
        )
        assert swapped[-3] <= expert.config.least_confidence <= swapped[-2]  # a twentieth of forty lies above
        metric = MatchedSound()
        for clip, other in zip(held_out, [*held_out[1:], held_out[0]], strict=True):
            metric.update(clip, other, expert)
        scores = metric.compute()
        assert scores["own_sound_matches"].mean == 1.0
        others = [confidence(c, o.waveform, expert) for c, o in zip(held_out, held_out[1:] + held_out[:1], strict=True)]
        above = sum(value is not None and value >= expert.config.least_confidence for value in others)
        assert scores["other_sound_matches"].mean == pytest.approx(above / 8) and above <= 2
        expert.config = replace(expert.config, least_confidence=100.0)
        metric = MatchedSound()
        metric.update(held_out[0], held_out[1], expert)
        assert metric.compute()["own_sound_matches"].mean == 0.0
    finally:
        expert.config = before


def test_the_loss_of_perfect_and_of_blind_embeddings() -> None:
    """Orthogonal moments with a large scale cost nothing; equal ones the logarithm of what there is to choose from."""
    eye = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)))[0]
    perfect = torch.stack((eye[:20], eye[20:40]))
    assert float(contrastive_loss(perfect, perfect, torch.tensor(100.0))) == pytest.approx(0.0, abs=1e-3)
    blind = torch.ones(2, 20, 4) / 2
    choices = math.log(2 * 10 + 1 + 1)  # shifts, and the other clip
    assert float(contrastive_loss(blind, blind, torch.tensor(5.0))) == pytest.approx(choices + math.log(20), rel=1e-5)
    shifted = torch.roll(perfect, 3, dims=1)
    assert float(contrastive_loss(perfect, shifted, torch.tensor(100.0))) > 50


def test_a_second_training_gives_the_same_weights(held_out: list[MouthClip]) -> None:
    prints = {train(held_out, max_steps=2, batch_size=3, width=8, seed=seed).fingerprint() for seed in (0, 0, 1)}
    assert len(prints) == 2


def test_the_time_budget_ends_the_cycle(held_out: list[MouthClip]) -> None:
    fractions: list[float] = []

    def report(now: TrainingProgress) -> None:
        fractions.append(now.fraction)

    train(held_out, max_steps=10_000, max_seconds=0.3, batch_size=2, width=8, report=report)
    assert fractions[-1] == 1.0 and len(fractions) < 1000


def test_clips_that_cannot_be_learnt_from_are_refused(held_out: list[MouthClip]) -> None:
    with pytest.raises(ValueError, match="wanted two or more of one size"):
        train(held_out[:1], max_steps=1)
    short = replace(held_out[0], key="short", crops=held_out[0].crops[:20])
    with pytest.raises(ValueError, match="short has 20 frames"):
        train([held_out[1], short], max_steps=1)
    with pytest.raises(ValueError, match="to swap sounds between"):
        calibrate(SyncExpert(config=SyncExpertConfig(side=16, width=8)), held_out[:1])
