"""Collecting rows over clips and over processes."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest

from hh_train.metrics.clip_metric import ClipMetric, Row, Score
from hh_train.metrics.speech.wer import SpeechErrorRate


class Pair(ClipMetric):
    names = ("rate", "size")

    def update(self, key: str) -> None:
        self.record(key, {"rate": 1.0, "size": 1.0})


def filled(keys: range) -> Pair:
    metric = Pair(num_resamples=200)
    for i in keys:
        metric.record(f"clip {i}", {"rate": Row(float(i % 3), 4.0), "size": None if i % 5 == 0 else float(i)})
    return metric


def test_rates_are_micro_averages_and_undefined_clips_are_counted() -> None:
    metric = Pair()
    metric.record("a", {"rate": Row(1.0, 1.0), "size": 2.0})
    metric.record("b", {"rate": Row(0.0, 3.0)})
    metric.record_failure("c")
    scores = metric.compute()
    assert scores["rate"].mean == pytest.approx(1 / 4)
    assert (scores["rate"].num_clips, scores["rate"].num_undefined, scores["rate"].num_failed) == (2, 0, 1)
    assert scores["size"].mean == 2.0
    assert (scores["size"].num_clips, scores["size"].num_undefined, scores["size"].num_failed) == (1, 1, 1)


def test_a_clip_given_twice_counts_once() -> None:
    metric = filled(range(10))
    once = metric.compute()
    for i in (3, 4, 3):
        metric.record(f"clip {i}", {"rate": Row(100.0, 1.0), "size": 100.0})
    assert metric.compute() == once


def test_the_order_of_the_clips_does_not_matter() -> None:
    backwards = Pair(num_resamples=200)
    for i in reversed(range(12)):
        backwards.record(f"clip {i}", {"rate": Row(float(i % 3), 4.0), "size": None if i % 5 == 0 else float(i)})
    assert backwards.compute() == filled(range(12)).compute()


def test_nothing_gives_no_number_and_reset_forgets() -> None:
    metric = filled(range(3))
    metric.reset()
    with pytest.warns(UserWarning, match="before the ``update``"):
        nothing = metric.compute()
    assert nothing["rate"] == Score(mean=None, low=None, high=None, num_clips=0)
    metric.update("a")
    assert metric.compute()["rate"].num_clips == 1


def test_a_copy_and_an_unknown_name() -> None:
    metric = filled(range(4))
    assert copy.deepcopy(metric).compute() == metric.compute()
    with pytest.raises(ValueError, match="has no"):
        metric.record("a", {"weight": 1.0})


def test_clips_of_one_speaker_are_drawn_together() -> None:
    apart, together = Pair(num_resamples=500), Pair(num_resamples=500)
    for i in range(96):
        values = {"rate": Row(float(i // 8 % 3), 1.0)}
        apart.record(f"clip {i}", values)
        together.record(f"clip {i}", values, speaker=f"speaker {i // 8}")
    narrow, wide = (metric.compute()["rate"] for metric in (apart, together))
    assert narrow.mean == wide.mean
    assert narrow.low is not None and wide.low is not None and wide.high is not None and narrow.high is not None
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_what_is_not_finite_is_undefined() -> None:
    metric = Pair()
    metric.record("a", {"rate": Row(1.0, 2.0), "size": float("nan")})
    metric.record("b", {"rate": Row(float("inf"), 2.0), "size": 3.0})
    scores = metric.compute()
    assert (scores["rate"].mean, scores["rate"].num_undefined) == (0.5, 1)
    assert (scores["size"].mean, scores["size"].num_undefined) == (3.0, 1)


SCRIPT = """
import sys
import torch.distributed as dist
from hh_train.metrics.clip_metric import Row
from hh_train.metrics.speech.wer import SpeechErrorRate

own, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=own, world_size=2)
for shares in ((range(7), range(5, 13)), (range(13), range(0))):
    metric = SpeechErrorRate()
    for i in shares[own]:
        metric.record(f"clip {i}", {"error_rate": Row(float(i % 3), 4.0)})
    print(tuple(metric.compute()["error_rate"]))
dist.destroy_process_group()
"""


def test_two_processes_score_as_one(tmp_path: Path) -> None:
    """With clips that both have, and with a process that has none."""
    processes = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, str(own), str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for own in range(2)
    ]
    answers = [process.communicate(timeout=120)[0].splitlines() for process in processes]
    metric = SpeechErrorRate()
    for i in range(13):
        metric.record(f"clip {i}", {"error_rate": Row(float(i % 3), 4.0)})
    score = metric.compute()["error_rate"]
    assert score.num_clips == 13 and score.mean
    assert answers == [[str(tuple(score))] * 2] * 2
