"""Distances of sets over clips and processes: known values, intervals, and refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchmetrics.image.kid import maximum_mean_discrepancy, poly_mmd

from hh_train.metrics.distribution.distances import frechet_distance, gaussian_kernel, median_distance
from hh_train.metrics.distribution.feature_distance import (
    FeatureDistance,
    FrechetDistance,
    KernelDistance,
    distance_difference,
    jackknife,
    require_comparable,
)

DIM = 6


def normal(n: int, seed: int, *, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, DIM, generator=generator, dtype=torch.float64) + shift


def filled(metric: FeatureDistance, generated: Tensor, real: Tensor, *, rows_a_clip: int = 1) -> FeatureDistance:
    for is_real, rows in ((True, real), (False, generated)):
        for i, part in enumerate(rows.split(rows_a_clip)):
            metric.update(f"clip {i}", part, real=is_real)
    return metric


@pytest.mark.parametrize("rows_a_clip", [1, 3])
def test_the_frechet_metric_is_the_distance_of_all_rows(rows_a_clip: int) -> None:
    """With several rows a clip, too: rows are counted, not clips."""
    generated, real = normal(60, 0, shift=0.5), normal(90, 1)
    score = filled(FrechetDistance(dim=DIM), generated, real, rows_a_clip=rows_a_clip).compute()
    assert score.value == pytest.approx(frechet_distance(generated, real), rel=1e-12)
    assert (score.num_clips, score.num_rows) == (60 // rows_a_clip, 60)
    assert (score.num_reference_clips, score.num_reference_rows) == (90 // rows_a_clip, 90)
    assert score.low is not None and score.high is not None and 0 < score.low < score.value < score.high


def test_the_kernel_metric_is_the_unbiased_discrepancy() -> None:
    generated, real = normal(40, 0, shift=0.5), normal(40, 1)
    score = filled(KernelDistance(dim=DIM), generated, real).compute()
    assert score.value == pytest.approx(float(poly_mmd(real, generated)), rel=1e-10)
    width = median_distance(real)
    kernels = [
        gaussian_kernel(x, y, bandwidth=width) for x, y in ((real, real), (real, generated), (generated, generated))
    ]
    score = filled(KernelDistance(dim=DIM, kernel="gaussian"), generated, real).compute()
    assert score.value == pytest.approx(float(maximum_mean_discrepancy(*kernels)), rel=1e-9)


def test_identical_sets_and_half_precision() -> None:
    rows = normal(50, 2)
    same = filled(FrechetDistance(dim=DIM), rows, rows).compute()
    assert same.value == pytest.approx(0.0, abs=1e-9)
    assert same.low == 0.0
    large = (rows * 300).half()
    moved = (rows * 300 + 600).half()
    score = filled(FrechetDistance(dim=DIM), moved, large).compute()
    assert score.value == pytest.approx(DIM * 600**2, rel=0.01)


def test_several_rows_of_a_clip_do_not_pull_the_kernel_distance_up() -> None:
    """Rows of one clip are alike. Of equal sets the mean over many draws is zero, which it is not with all pairs."""
    values, naive = [], []
    for seed in range(60):
        voices = normal(24, seed).repeat_interleave(4, dim=0)
        rows = voices + 0.1 * normal(96, 1000 + seed)
        values.append(filled(KernelDistance(dim=DIM), rows[:48], rows[48:], rows_a_clip=4).compute().value)
        naive.append(float(poly_mmd(rows[:48], rows[48:])))
    found = torch.tensor(values)
    error = float(found.std()) / len(values) ** 0.5
    assert abs(float(found.mean())) < 3 * error
    assert sum(naive) / len(naive) > 10 * error


def test_the_interval_covers_what_other_draws_of_clips_give() -> None:
    real = normal(200, 3)
    many = filled(KernelDistance(dim=DIM), normal(1000, 4, shift=0.4), real).compute().value
    assert many is not None
    hits = 0
    for seed in range(60):
        score = filled(KernelDistance(dim=DIM), normal(60, 100 + seed, shift=0.4), real).compute()
        assert score.low is not None and score.high is not None
        hits += score.low <= many <= score.high
    assert 52 <= hits <= 60


def test_the_jackknife_of_a_mean_is_students_interval() -> None:
    values = normal(12, 5)[:, 0]
    without = [float((values.sum() - v) / 11) for v in values]
    mean, low, high = jackknife(float(values.mean()), without)
    assert low is not None and high is not None
    assert high - mean == pytest.approx(2.200985 * float(values.std()) / 12**0.5, rel=1e-5)
    assert mean - low == pytest.approx(high - mean)
    assert jackknife(1.0, [2.0]) == (1.0, None, None)


def test_a_clip_given_twice_counts_once_and_order_does_not_matter() -> None:
    generated, real = normal(20, 6, shift=0.2), normal(20, 7)
    once = filled(KernelDistance(dim=DIM), generated, real).compute()
    metric = KernelDistance(dim=DIM)
    for i in reversed(range(20)):
        for is_real, rows in ((False, generated), (True, real)):
            metric.update(f"clip {i}", rows[i : i + 1], real=is_real)
    for i in (3, 4, 3):
        metric.update(f"clip {i}", generated[i : i + 1] * 50, real=False)
    assert metric.compute() == once


def test_too_few_clips_failures_and_reset() -> None:
    metric = FrechetDistance(dim=DIM)
    metric.update("a", normal(3, 8), real=False)
    metric.record_failure("b")
    metric.record_failure("b")
    score = metric.compute()
    assert (score.value, score.num_clips, score.num_rows, score.num_failed) == (None, 1, 3, 1)
    metric.reset()
    metric.record_failure("c")
    assert (metric.compute().num_clips, metric.compute().num_failed) == (0, 1)


def test_features_that_do_not_fit_are_refused() -> None:
    metric = FrechetDistance(dim=DIM)
    with pytest.raises(ValueError, match="at least one row of 6"):
        metric.update("a", torch.zeros(1, DIM + 1), real=False)
    with pytest.raises(ValueError, match="not finite"):
        metric.update("a", torch.full((1, DIM), torch.inf), real=False)
    with pytest.raises(ValueError, match="num_clips 1"):
        FrechetDistance(dim=DIM, num_clips=1)


def test_a_fixed_number_of_clips() -> None:
    generated, real = normal(30, 9), normal(30, 10)
    score = filled(FrechetDistance(dim=DIM, num_clips=12), generated, real).compute()
    assert (score.num_clips, score.num_rows) == (12, 12)
    part = filled(FrechetDistance(dim=DIM, num_clips=12), generated.flip(0).flip(0), real).compute()
    assert part == score
    with pytest.raises(ValueError, match="wanted 31"):
        filled(FrechetDistance(dim=DIM, num_clips=31), generated, real).compute()


def test_only_what_shares_number_reference_and_extractor_compares() -> None:
    real = normal(30, 11)
    base = filled(FrechetDistance(dim=DIM, extractor="a"), normal(30, 12), real).compute()
    require_comparable(base, filled(FrechetDistance(dim=DIM, extractor="a"), normal(30, 13), real).compute())
    for other, field in (
        (filled(FrechetDistance(dim=DIM, extractor="a"), normal(29, 12), real), "num_clips: 30 and 29"),
        (filled(FrechetDistance(dim=DIM, extractor="b"), normal(30, 12), real), "extractor: a and b"),
        (filled(FrechetDistance(dim=DIM, extractor="a"), normal(30, 12), normal(30, 14)), "reference"),
    ):
        with pytest.raises(ValueError, match=field):
            require_comparable(base, other.compute())


def test_a_distance_falls_with_the_number_of_clips_which_is_why_numbers_must_agree() -> None:
    real = normal(500, 15)
    few, many = (filled(FrechetDistance(dim=DIM), normal(n, 16), real).compute().value for n in (20, 500))
    assert few is not None and many is not None
    assert few > 3 * many


def test_the_difference_of_two_systems_on_the_same_prompts_is_paired() -> None:
    real, shared = normal(100, 17), normal(60, 18)
    first = filled(KernelDistance(dim=DIM), shared + 0.45, real)
    second = filled(KernelDistance(dim=DIM), shared + 0.40, real)
    value, low, high = distance_difference(first, second)
    scores = first.compute(), second.compute()
    assert scores[0].value is not None and scores[1].value is not None
    assert value == pytest.approx(scores[0].value - scores[1].value)
    assert low is not None and high is not None and 0 < low < value < high
    assert scores[0].high is not None
    assert high - value < 0.5 * (scores[0].high - scores[0].value)
    with pytest.raises(ValueError, match="num_clips"):
        distance_difference(first, filled(KernelDistance(dim=DIM), shared[:50], real))


SCRIPT = """
import sys
import torch
import torch.distributed as dist
from hh_train.metrics.distribution.feature_distance import FrechetDistance, KernelDistance

own, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=own, world_size=2)
generator = torch.Generator().manual_seed(0)
generated, real = torch.randn(26, 6, generator=generator), torch.randn(26, 6, generator=generator)
for shares in ((range(7), range(5, 13)), (range(13), range(0))):
    for metric in (FrechetDistance(dim=6), KernelDistance(dim=6, kernel="gaussian")):
        for i in shares[own]:
            metric.update(f"clip {i}", generated[2 * i : 2 * i + 2], real=False)
            metric.update(f"clip {i}", real[2 * i : 2 * i + 2], real=True)
        metric.record_failure("broken")
        print(tuple(metric.compute()))
dist.destroy_process_group()
"""


def test_two_processes_score_as_one(tmp_path: Path) -> None:
    """With clips that both have, and with a process that has none."""
    processes = [
        subprocess.Popen([sys.executable, "-c", SCRIPT, str(own), str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for own in range(2)
    ]
    answers = [process.communicate(timeout=120)[0].splitlines() for process in processes]
    generator = torch.Generator().manual_seed(0)
    generated, real = torch.randn(26, DIM, generator=generator), torch.randn(26, DIM, generator=generator)
    wanted = []
    for metric in (FrechetDistance(dim=DIM), KernelDistance(dim=DIM, kernel="gaussian")):
        filled(metric, generated, real, rows_a_clip=2)
        metric.record_failure("broken")
        wanted.append(str(tuple(metric.compute())))
    assert "13, 26, 13, 26" in wanted[0]
    assert answers == [wanted * 2] * 2
