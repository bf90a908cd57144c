"""Known pictures give known numbers."""

from __future__ import annotations

import math

import pytest
import torch

from hh_train.metrics.measurer import Sample
from hh_train.metrics.statistics import PictureMeasurer, Statistics, known_latents, measure_pictures
from hh_train.types import Clip


def test_a_picture_of_two_colors() -> None:
    frames = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    frames[1] = torch.tensor([255, 0, 0], dtype=torch.uint8)
    found = measure_pictures(frames)
    assert found.pixel_mean == pytest.approx(1 / 6)
    assert found.pixel_std == pytest.approx(math.sqrt(1 / 6 - 1 / 36))
    assert found.saturation == pytest.approx(0.5)
    gray = measure_pictures(torch.full((2, 4, 4, 3), 128, dtype=torch.uint8))
    assert (gray.pixel_std, gray.saturation) == (pytest.approx(0.0, abs=1e-6), 0.0)


def test_latent_statistics_are_taken_over_where_they_are_known() -> None:
    metric = Statistics()
    frames = torch.full((2, 4, 4, 3), 51, dtype=torch.uint8)
    written = {"video": {"mean": 0.5, "std": 2.0}, "audio": None}
    metric.update("generated", frames, latent_statistics=written)
    metric.update("real", frames)
    scores = metric.compute()
    assert (scores["video_latent_std"].mean, scores["video_latent_std"].num_undefined) == (2.0, 1)
    assert scores["audio_latent_std"].mean is None
    assert scores["pixel_mean"].num_clips == 2
    assert scores["pixel_mean"].mean == pytest.approx(0.2)
    assert known_latents(written)["video_latent_mean"] == 0.5


def test_the_measurer_reads_the_clips_json() -> None:
    frames = torch.full((2, 4, 4, 3), 255, dtype=torch.uint8)
    clip = Clip(frames=frames, frames_per_second=25.0, waveform=None, samples_per_second=16_000)
    fields = {"latent_statistics": {"audio": {"mean": 0.25, "std": 1.5}}}
    values = PictureMeasurer().measure(Sample(key="a", clip=clip, transcript=None, language=None, fields=fields)).values
    assert set(values) == {measure.name for measure in PictureMeasurer.measures}
    assert (values["pixel_mean"], values["audio_latent_std"], values["video_latent_mean"]) == (1.0, 1.5, None)
