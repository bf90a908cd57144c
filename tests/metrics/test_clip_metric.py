"""Collecting rows over clips and over processes."""

from __future__ import annotations

import copy
import multiprocessing
import socket
from multiprocessing.queues import Queue
from typing import Any

import pytest
import torch
import torch.distributed

from hh_train.metrics.clip_metric import ClipMetric, Row, Score


class Pair(ClipMetric):
    names = ("rate", "size")


def filled(keys: range) -> Pair:
    metric = Pair(num_resamples=200)
    for i in keys:
        metric.record(f"clip {i}", {"rate": Row(i % 3, 4), "size": None if i % 5 == 0 else float(i)})
    return metric


def test_rates_are_micro_averages_and_undefined_clips_are_counted() -> None:
    metric = Pair()
    metric.record("a", {"rate": Row(1, 1), "size": 2.0})
    metric.record("b", {"rate": Row(0, 3)})
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
        metric.record(f"clip {i}", {"rate": Row(100, 1), "size": 100.0})
    assert metric.compute() == once


def test_the_order_of_the_clips_does_not_matter() -> None:
    backwards = Pair(num_resamples=200)
    for i in reversed(range(12)):
        backwards.record(f"clip {i}", {"rate": Row(i % 3, 4), "size": None if i % 5 == 0 else float(i)})
    assert backwards.compute() == filled(range(12)).compute()


def test_nothing_gives_no_number_and_reset_forgets() -> None:
    metric = filled(range(3))
    metric.reset()
    assert metric.compute()["rate"] == Score(mean=None, low=None, high=None, num_clips=0)
    metric.record("a", {"rate": 1.0, "size": 1.0})
    assert metric.compute()["rate"].num_clips == 1


def test_a_copy_and_an_unknown_name() -> None:
    metric = filled(range(4))
    assert copy.deepcopy(metric).compute() == metric.compute()
    with pytest.raises(ValueError, match="has no"):
        metric.record("a", {"weight": 1.0})


def _rank(rank: int, port: int, shares: tuple[range, range], answers: Queue[Any]) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=len(shares)
    )
    metric = filled(shares[rank])
    answers.put({name: tuple(score) for name, score in metric.compute().items()})
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("shares", [(range(7), range(5, 13)), (range(13), range(0))], ids=["overlap", "empty rank"])
def test_two_processes_score_as_one(shares: tuple[range, range]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    processes = [context.Process(target=_rank, args=(rank, port, shares, answers)) for rank in range(2)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    expected = {name: tuple(score) for name, score in filled(range(13)).compute().items()}
    assert found == [expected, expected]
