"""Where a loss on held-out clips was lowest."""

from __future__ import annotations

import pytest

from hh_train.training.finetune.held_out import HeldOutLosses


def watched(**seen: list[tuple[int, float]]) -> HeldOutLosses:
    losses = HeldOutLosses()
    losses.load_state_dict({"seen": {"video": [], "audio": [], **seen}})
    return losses


def test_a_loss_that_rises_again_is_told_with_its_best_step() -> None:
    (warning,) = watched(video=[(0, 1.9), (15, 1.7), (60, 2.1)], audio=[(0, 1.0), (15, 0.7), (60, 0.4)]).warnings()
    assert "loss of video was lowest at step 15 (1.7) and ends at 2.1" in warning


def test_a_base_that_was_best_is_told() -> None:
    (warning,) = watched(audio=[(0, 1.0), (10, 1.3)]).warnings()
    assert "loss of audio was lowest before the first step (1)" in warning


@pytest.mark.parametrize("end", [1.0, 1.019])
def test_a_rise_within_chance_is_none(end: float) -> None:
    assert watched(video=[(0, 1.2), (10, 1.0), (20, end)]).warnings() == []


def test_a_loss_that_is_no_number_is_told() -> None:
    assert len(watched(video=[(0, 1.2), (10, float("nan"))]).warnings()) == 1


def test_what_was_seen_survives_a_kill() -> None:
    before = watched(video=[(0, 1.0), (10, 2.0)])
    after = HeldOutLosses()
    after.load_state_dict(before.state_dict())
    assert after.warnings() == before.warnings() != []
