"""Limits, patience and what follows."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from hh_train.training.dmd2.cadence import Cadence
from hh_train.training.dmd2.monitors import Monitor, Monitors

BATCHES_PER_TURN = 2


class Scripted(LightningModule):
    """Logs given values, one a student step, and moves its weight by 1 in each."""

    def __init__(self, values: list[float], samples: dict[int, float] | None = None) -> None:
        super().__init__()
        self.samples = samples or {}
        self.automatic_optimization = False
        self.cadence = Cadence(critic_steps_per_student_step=1, batches_per_turn=BATCHES_PER_TURN)
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.values = values
        self.weights: list[float] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        if not self.cadence.count_batch():
            return
        optimizer = self.optimizers()
        self.weights.append(self.weight.item())
        self.weight.grad = torch.full((), -1.0)
        optimizer.step()
        self.log("watched", self.values[self.cadence.student_steps])
        self.log("other", 2.0)
        steps = self.cadence.student_steps + 1
        if steps in self.samples:
            self.log("sample/errors", self.samples[steps])
            self.log("sample/student_steps", float(steps))
        self.cadence.count_turn()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0, momentum=0.5)

    def train_dataloader(self) -> DataLoader[torch.Tensor]:
        return DataLoader(torch.zeros(BATCHES_PER_TURN * len(self.values), 1))


def run(values: list[float], monitors: Monitors, samples: dict[int, float] | None = None) -> Scripted:
    module = Scripted(values, samples)
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, callbacks=[monitors], enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(module)
    return module


def test_limits() -> None:
    both = Monitor(value="a", lowest=1.0, highest=2.0)
    assert [both.is_beyond(x) for x in (0.9, 1.0, 2.0, 2.1, math.nan, math.inf)] == [True, False, False] + [True] * 3
    ratio = Monitor(value="a", relative_to="b", highest=1.0)
    assert ratio.observe({"a": 3.0, "b": 2.0}) == 1.5
    assert ratio.observe({"a": 3.0}) is None and ratio.observe({"b": 3.0}) is None
    assert math.isnan(ratio.observe({"a": 3.0, "b": 0.0}) or 0.0)
    difference = Monitor(value="a", minus="b", highest=1.0)
    assert difference.observe({"a": 3.0, "b": 0.0}) == 3.0 and difference.name == "a - b"
    assert difference.observe({"a": 3.0}) is None and difference.observe({"b": 3.0}) is None


def test_it_stops_when_patience_ends_and_not_before() -> None:
    """Beyond at steps 2, 4 and 5 of 8: two in a row for the first time at 5."""
    values = [1.0, 9.0, 1.0, 9.0, 9.0, 1.0, 1.0, 1.0]
    stop = Monitors(monitors=[Monitor(value="watched", highest=5.0, patience=2, action="stop")])
    assert run(values, stop).cadence.student_steps == 5
    assert run(values, Monitors(monitors=[Monitor(value="watched", highest=5.0)])).cadence.student_steps == 8
    relative = Monitors(monitors=[Monitor(value="watched", relative_to="other", highest=4.6, action="stop")])
    assert run(values, relative).cadence.student_steps == 8
    assert run([math.nan, 1.0], stop_at_once()).cadence.student_steps == 1


def stop_at_once() -> Monitors:
    return Monitors(monitors=[Monitor(value="watched", highest=5.0, action="stop")])


def test_what_was_seen_is_written(tmp_path: Path) -> None:
    file = tmp_path / "run" / "monitors.jsonl"
    run([1.0, 9.0, 1.0], Monitors(monitors=[Monitor(value="watched", highest=5.0)], output=str(file)))
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert records == [{"student_steps": 2, "monitor": "watched", "observed": 9.0}]


def test_rolling_back_restores_weights_and_moments_of_the_last_good_step(tmp_path: Path) -> None:
    """SGD with momentum 1/2 moves by 1, 1.5, 1.75 ... After the third step, at 4.25, it goes back to 2.5 and the
    moment of the second: the fourth step starts from there and repeats the third.
    """
    file = tmp_path / "monitors.jsonl"
    back = Monitors(monitors=[Monitor(value="watched", highest=5.0, action="roll_back")], output=str(file))
    module = run([1.0, 1.0, 9.0, 1.0, 1.0], back)
    assert module.weights == [0.0, 1.0, 2.5, 2.5, 4.25]
    assert module.cadence.student_steps == 5  # counters go on
    assert json.loads(file.read_text().splitlines()[-1]) == {"student_steps": 3, "rolled_back_to": 2}


def test_too_many_returns_stop() -> None:
    back = Monitors(monitors=[Monitor(value="watched", highest=5.0, action="roll_back")], max_roll_backs=2)
    assert run([1.0] + [9.0] * 7, back).cadence.student_steps == 4
    assert run([9.0, 1.0], Monitors(monitors=back.monitors)).cadence.student_steps == 1  # nothing to return to


def test_what_is_sampled_seldom_counts_once_a_sample(tmp_path: Path) -> None:
    """Samples at steps 2, 4 and 6, the last two beyond: patience 2 ends at step 6, not at 5, where 4 is still shown."""
    errors = Monitor(value="sample/errors", highest=5.0, patience=2, action="stop")
    file = tmp_path / "monitors.jsonl"
    module = run([1.0] * 8, Monitors(monitors=[errors], output=str(file)), {2: 1.0, 4: 9.0, 6: 9.0})
    assert module.cadence.student_steps == 6
    assert [json.loads(line)["student_steps"] for line in file.read_text().splitlines()] == [4, 6]


def test_a_bad_sample_leads_back_to_the_last_good_one() -> None:
    """Steps that no sample was made of are not known to be good: from step 4 back to step 2, at 2.5, and once only."""
    errors = Monitor(value="sample/errors", highest=5.0, action="roll_back")
    never_logged = Monitor(value="sample/nothing", highest=5.0, action="roll_back")
    back = Monitors(monitors=[errors, never_logged])
    module = run([1.0] * 6, back, {2: 1.0, 4: 9.0})
    assert module.weights == [0.0, 1.0, 2.5, 4.25, 2.5, 4.25]
    assert back.num_roll_backs == 1


def test_patience_outlives_a_resume() -> None:
    first = Monitors(monitors=[Monitor(value="watched", highest=5.0, patience=3, action="stop")])
    run([9.0, 9.0], first)
    second = Monitors(monitors=first.monitors)
    second.load_state_dict(first.state_dict())
    assert run([9.0, 1.0], second).cadence.student_steps == 1


def test_every_so_many_steps() -> None:
    sparse = Monitors(monitors=stop_at_once().monitors, every_student_steps=3)
    assert run([9.0] * 5, sparse).cadence.student_steps == 3


def test_two_other_values() -> None:
    with pytest.raises(ValueError, match="one of relative_to and minus"):
        Monitor(value="a", highest=1.0, relative_to="b", minus="c")


@pytest.mark.parametrize("fields", [{}, {"highest": 1.0, "patience": 0}])
def test_monitors_without_limits(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="want a lowest or a highest"):
        Monitor(value="a", **fields)
