"""The voice is held against the base's, and its loss ends a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from hh_train.flow.guidance import Guidance
from hh_train.flow.solvers import RenoiseSolver
from hh_train.training.finetune.voice import VoiceWatch


@pytest.fixture
def watch(tmp_path: Path) -> VoiceWatch:
    return VoiceWatch(
        shards="", output=str(tmp_path), solver=RenoiseSolver(num_steps=1), guidance=Guidance(), patience=2
    )


def see(watch: VoiceWatch, *losses: float) -> list[bool]:
    """Validations with these losses; whether the run is to stop after each."""
    found = []
    for loss in losses:
        watch.judge({"audio_loss": loss})
        found.append(watch.is_over)
    return found


def test_a_loss_far_over_the_bases_ends_the_run_after_some_patience(watch: VoiceWatch) -> None:
    assert see(watch, 1.0, 1.09, 1.2, 1.05, 1.11, 1.12) == [False] * 5 + [True]
    assert watch.base == {"audio_loss": 1.0}


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_is_beyond_any_limit(watch: VoiceWatch, loss: float) -> None:
    assert see(watch, 1.0, loss, loss) == [False, False, True]


def test_a_run_that_goes_on_is_held_against_the_same_base(watch: VoiceWatch, tmp_path: Path) -> None:
    see(watch, 1.0, 1.2)
    other = VoiceWatch(shards="", output=str(tmp_path), solver=RenoiseSolver(num_steps=1), guidance=Guidance())
    other.load_state_dict(watch.state_dict())
    assert see(other, 1.2) == [True]


@pytest.mark.parametrize(("errors", "said"), [(0.29, []), (0.35, ["35% of the words are wrong, the base has 10%"])])
def test_words_count_beside_the_loss(watch: VoiceWatch, errors: float, said: list[str]) -> None:
    watch.base, watch.latest = {"word_errors": 0.1}, {"word_errors": errors}
    assert watch.reasons() == said


def test_patience_is_counted_from_one() -> None:
    with pytest.raises(ValueError, match="patience 0"):
        VoiceWatch(shards="", output="", solver=RenoiseSolver(num_steps=1), guidance=Guidance(), patience=0)
