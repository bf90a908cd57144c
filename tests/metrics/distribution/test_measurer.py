"""Features of clips, and the distances of their sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from hh_train.metrics.distribution.extractors import LogMelSoundFeatures, UntrainedVideoFeatures
from hh_train.metrics.distribution.measurer import DistributionMeasurer
from hh_train.metrics.measurer import Sample
from hh_train.types import Clip

Sets = dict[str, Mapping[str, Tensor]]


def features(measurer: DistributionMeasurer, clips: Sequence[Clip]) -> Sets:
    samples = (Sample(key=f"clip {i}", clip=clip, transcript=None, language=None) for i, clip in enumerate(clips))
    return {sample.key: measurer.measure(sample).features for sample in samples}


@pytest.fixture(scope="module")
def measurer() -> DistributionMeasurer:
    return DistributionMeasurer(video=UntrainedVideoFeatures(), sound=LogMelSoundFeatures())


@pytest.fixture(scope="module")
def real(measurer: DistributionMeasurer, real_files: Sequence[Clip]) -> Sets:
    return features(measurer, real_files)


@pytest.fixture(scope="module")
def grainy(
    measurer: DistributionMeasurer, real_files: Sequence[Clip], harmed: dict[str, Callable[[Clip, float], Clip]]
) -> Sets:
    return features(measurer, [harmed["grain"](clip, 20.0) for clip in real_files])


def test_four_distances_each_with_its_number_and_reference(
    measurer: DistributionMeasurer, real: Sets, grainy: Sets
) -> None:
    scores = measurer.measure_sets(grainy, real, failed=["broken"])
    assert tuple(scores) == tuple(measure.name for measure in measurer.set_measures) == ("fvd", "kvd", "fad", "kad")
    assert measurer.set_measures[0].title == "FVD (untrained network)"
    assert scores["fvd"].value and scores["fvd"].value > 0 and scores["kvd"].value and scores["kvd"].value > 0
    assert scores["fad"].value == pytest.approx(0.0, abs=1e-6)  # the sound is the same
    assert {(s.num_clips, s.num_reference_clips, s.num_failed) for s in scores.values()} == {(12, 12, 1)}
    assert scores["fvd"].reference == scores["kvd"].reference != scores["fad"].reference
    assert scores["fvd"].extractor == measurer.protocol()["video"]


def test_a_clip_without_sound_counts_as_failed_for_sound_alone(
    measurer: DistributionMeasurer, real_files: Sequence[Clip], real: Sets
) -> None:
    silent = features(measurer, [replace(real_files[0], waveform=None), *real_files[1:]])
    scores = measurer.measure_sets(silent, real)
    assert (scores["fvd"].num_clips, scores["fvd"].num_failed) == (12, 0)
    assert (scores["fad"].num_clips, scores["fad"].num_failed) == (11, 1)
    sample = Sample(key="a", clip=replace(real_files[0], waveform=None), transcript=None, language=None)
    assert measurer.measure(sample).notes == ["sound features: it has no sound track"]
    differences = measurer.compare_sets(silent, real, real)
    assert differences["fvd"][0] == pytest.approx(0.0, abs=1e-6)
    assert differences["fad"][0] == pytest.approx(0.0, abs=1e-6)


def test_the_difference_of_two_systems_is_that_of_their_distances(
    measurer: DistributionMeasurer, real: Sets, grainy: Sets
) -> None:
    value, low, high = measurer.compare_sets(grainy, real, real)["kvd"]
    scores = [measurer.measure_sets(found, real)["kvd"].value for found in (grainy, real)]
    assert scores[0] is not None and scores[1] is not None
    assert value == pytest.approx(scores[0] - scores[1])
    assert low is not None and high is not None and 0 < low < high


def test_a_fixed_number_and_one_kind_alone(real: Sets) -> None:
    measurer = DistributionMeasurer(video=UntrainedVideoFeatures(), num_clips=8)
    assert {measure.name for measure in measurer.set_measures} == {"fvd", "kvd"}
    assert measurer.measure_sets(real, real)["fvd"].num_clips == 8
    assert measurer.protocol()["num_clips"] == "8"
    few = dict(list(real.items())[:5])
    with pytest.raises(ValueError, match="got 5 generated clips"):
        measurer.measure_sets(few, real)


def test_a_reference_in_a_file_takes_the_place_of_the_real_clips(
    measurer: DistributionMeasurer, real: Sets, grainy: Sets, tmp_path: Path
) -> None:
    path = measurer.write_reference(tmp_path / "reference.safetensors", real)
    fixed = DistributionMeasurer(video=UntrainedVideoFeatures(), sound=LogMelSoundFeatures(), reference=str(path))
    others = dict(list(grainy.items())[:4])
    wanted, found = measurer.measure_sets(grainy, real), fixed.measure_sets(grainy, others)
    assert found == wanted != measurer.measure_sets(grainy, others)
    assert fixed.protocol()["reference"] != measurer.protocol()["reference"] == "the evaluation's"
