from __future__ import annotations

from hh_train.metrics.cost import GenerationCost


def test_the_cost_is_what_was_written_and_a_real_clip_has_none() -> None:
    metric = GenerationCost()
    metric.update("a", {"generation": {"seconds": 2, "num_function_evaluations": 8}})
    metric.update("b", {"generation": {"seconds": 4.0, "num_function_evaluations": 16}})
    metric.update("real", {"description": "a man"})
    metric.update("odd", {"generation": {"seconds": "fast"}})
    scores = metric.compute()
    assert (scores["seconds"].mean, scores["seconds"].num_clips, scores["seconds"].num_undefined) == (3.0, 2, 2)
    assert scores["num_function_evaluations"].mean == 12.0
