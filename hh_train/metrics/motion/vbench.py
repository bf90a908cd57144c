"""VBench's measures of motion, with its networks given by path: a measure whose network is not given is left out.

Huang et al., "VBench: Comprehensive Benchmark Suite for Video Generative Models", CVPR 2024. The formulas are its own;
scores on other prompts than its suites are comparable among themselves, not with its leaderboard.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, TypeVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from hh_train.metrics.clip_metric import ClipMetric, Row
from hh_train.metrics.comparison.bootstrap import NUM_RESAMPLES
from hh_train.metrics.motion.dynamic_degree import (
    compared_frames,
    is_dynamic,
    is_static,
    static_pairs,
    strongest_flow,
    strongest_static_flow,
)
from hh_train.metrics.motion.frame_features import FrameFeatures
from hh_train.metrics.motion.motion_networks import FlowNetwork, FrameInterpolator
from hh_train.metrics.motion.weight_free import flicker

_T = TypeVar("_T")


def frame_consistency(features: Float[Tensor, "F D"]) -> Row:
    """Sum over the frames but the first, and their number: cosine with the frame before and with the first frame,
    negative ones as 0, averaged. The score is the mean over all frames of all clips.

    Raises:
        ValueError: for fewer than two frames.
    """
    if features.shape[0] < 2:
        raise ValueError(f"got {features.shape[0]} frames; consistency compares at least 2")
    wide = features.double()
    with_previous = functional.cosine_similarity(wide[1:], wide[:-1], dim=1).clamp(min=0)
    with_first = functional.cosine_similarity(wide[1:], wide[:1], dim=1).clamp(min=0)
    similarity = (with_previous + with_first) / 2
    return Row(float(similarity.sum()), float(similarity.numel()))


def motion_smoothness(frames: UInt8[Tensor, "F H W 3"], interpolator: FrameInterpolator) -> float:
    """(255 - d) / 255, d the mean difference of every second frame from what its neighbors make of it.

    Raises:
        ValueError: for fewer than three frames.
    """
    if frames.shape[0] < 3:
        raise ValueError(f"got {frames.shape[0]} frames; smoothness rebuilds one between 2 others")
    kept, dropped = frames[::2], frames[1::2]
    differences = [
        (interpolator.middle(first, second).int() - frame.int()).abs().double().mean()
        for (first, second), frame in zip(pairwise(kept), dropped, strict=False)
    ]
    return float((255 - torch.stack(differences).mean()) / 255)


@dataclass(frozen=True, kw_only=True)
class VBenchNetworks:
    """What VBench measures with; None leaves the measure out."""

    subject: FrameFeatures | None = None
    """DINO ViT-B/16: subject consistency."""
    background: FrameFeatures | None = None
    """CLIP ViT-B/32: background consistency."""
    flow: FlowNetwork | None = None
    """RAFT: dynamic degree, and which clips are still enough for temporal flickering."""
    interpolator: FrameInterpolator | None = None
    """AMT-S: motion smoothness."""


def measure_vbench(
    frames: UInt8[Tensor, "F H W 3"], *, frames_per_second: float, networks: VBenchNetworks
) -> tuple[dict[str, Row | float | None], list[str]]:
    """What the given networks say of one clip by `VBench.names`, and why some of it is undefined."""
    notes: list[str] = []
    values: dict[str, Row | float | None] = {}
    for name, extractor in (
        ("subject_consistency", networks.subject),
        ("background_consistency", networks.background),
    ):
        if extractor is not None:
            values[name] = _attempt(notes, frame_consistency, extractor.features(frames))
    if networks.interpolator is not None:
        values["motion_smoothness"] = _attempt(notes, motion_smoothness, frames, networks.interpolator)
    if networks.flow is not None:
        values["dynamic_degree"] = _attempt(notes, _dynamic_degree, frames, frames_per_second, networks.flow)
        values["temporal_flickering"] = _attempt(notes, _temporal_flickering, frames, networks.flow)
    return values, notes


def _attempt(notes: list[str], measure: Callable[..., _T], *given: object) -> _T | None:
    try:
        return measure(*given)
    except ValueError as error:
        notes.append(str(error))
        return None


def _dynamic_degree(frames: Tensor, frames_per_second: float, network: FlowNetwork) -> float:
    compared = compared_frames(frames.shape[0], frames_per_second)
    strengths = [strongest_flow(network.flow(frames[a], frames[b])) for a, b in pairwise(compared)]
    short_side = min(frames.shape[1:3])
    return float(is_dynamic(strengths, short_side=short_side, frames_per_second=frames_per_second))


def _temporal_flickering(frames: Tensor, network: FlowNetwork) -> float:
    pairs: Sequence[tuple[int, int]] = static_pairs(frames.shape[0])
    strengths = [strongest_static_flow(network.flow(frames[a], frames[b])) for a, b in pairs]
    if not is_static(strengths, short_side=min(frames.shape[1:3])):
        raise ValueError("it moves, and temporal flickering is of still clips")
    return flicker(frames)


class VBench(ClipMetric):
    """VBench's five measures of motion, as far as their networks are given.

    Args:
        networks: what to measure with.
        num_resamples: bootstrap draws.
        seed: of the bootstrap draws.
    """

    names: ClassVar[tuple[str, ...]] = (
        "subject_consistency",
        "background_consistency",
        "temporal_flickering",
        "motion_smoothness",
        "dynamic_degree",
    )

    def __init__(self, *, networks: VBenchNetworks, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> None:
        super().__init__(num_resamples=num_resamples, seed=seed)
        self.networks = networks

    def update(self, key: str, frames: UInt8[Tensor, "F H W 3"], *, frames_per_second: float) -> None:
        """Measures a decoded clip and adds it."""
        values, _ = measure_vbench(frames, frames_per_second=frames_per_second, networks=self.networks)
        self.record(key, values)
