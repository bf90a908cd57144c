"""Known pictures and sounds give known numbers."""

from __future__ import annotations

import math

import pytest
import torch

from hh_train.metrics.statistics import Statistics, measure_statistics


def test_a_picture_of_two_colors() -> None:
    frames = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    frames[1] = torch.tensor([255, 0, 0], dtype=torch.uint8)
    found = measure_statistics(frames, None, samples_per_second=16_000)
    assert found.pixel_mean == pytest.approx(1 / 6)
    assert found.pixel_std == pytest.approx(math.sqrt(1 / 6 - 1 / 36))
    assert found.saturation == pytest.approx(0.5)
    gray = measure_statistics(torch.full((2, 4, 4, 3), 128, dtype=torch.uint8), None, samples_per_second=16_000)
    assert (gray.pixel_std, gray.saturation) == (pytest.approx(0.0, abs=1e-6), 0.0)
    assert gray.loudness_db is None and gray.silence_share is None


def test_a_sine_and_a_square_wave() -> None:
    frames = torch.zeros(1, 2, 2, 3, dtype=torch.uint8)
    sine = torch.sin(torch.arange(16_000) * 2 * torch.pi * 100 / 16_000)
    found = measure_statistics(frames, sine, samples_per_second=16_000)
    assert found.loudness_db == pytest.approx(20 * math.log10(1 / math.sqrt(2)), abs=1e-3)
    assert found.silence_share == 0.0
    half = torch.cat((sine[:8000] * 0.1, torch.zeros(8000)))
    quiet = measure_statistics(frames, half, samples_per_second=16_000)
    assert quiet.silence_share == pytest.approx(0.5)
    assert quiet.loudness_db == pytest.approx(-20 + 20 * math.log10(1 / 2), abs=1e-2)
    assert quiet.clipping_share == 0.0
    assert measure_statistics(frames, sine.sign(), samples_per_second=16_000).clipping_share == pytest.approx(
        0.99, abs=0.02
    )


def test_latent_statistics_are_taken_over_where_they_are_known() -> None:
    metric = Statistics()
    frames = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    written = {"video": {"mean": 0.5, "std": 2.0}, "audio": None}
    metric.update("generated", frames, None, samples_per_second=16_000, latent_statistics=written)
    metric.update("real", frames, None, samples_per_second=16_000)
    scores = metric.compute()
    assert (scores["video_latent_std"].mean, scores["video_latent_std"].num_undefined) == (2.0, 1)
    assert scores["audio_latent_std"].mean is None
    assert scores["pixel_mean"].num_clips == 2
