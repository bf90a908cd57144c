"""Networks that judge lips against sound by the distance of embeddings, as `SyncMeasurer` asks them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import ClassVar, Literal, Protocol

import torch

from hh_train.metrics.clip_metric import Row
from hh_train.metrics.faces.crops import mouth_crops
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurer import Measured, Sample
from hh_train.metrics.sync.embedding_distance import Edge, EmbeddingSync, embedding_sync
from hh_train.metrics.sync.expert import FRAMES_PER_SECOND, SyncExpert
from hh_train.metrics.sync.syncnet import SyncNet, crop_faces

DESYNC_SECONDS = 4.8
"""Of the two windows, at the beginning and at the end of a clip, whose offsets the desynchronization averages."""


class SyncJudge(Protocol):
    """Says by embeddings how far lips and sound of a clip are apart."""

    @property
    def measures(self) -> Sequence[Measure]: ...

    def protocol(self) -> Mapping[str, str]: ...

    def judge(self, sample: Sample) -> Measured:
        """Judges a clip with a moving mouth and sound of the picture's length.

        Raises:
            ValueError: where the network cannot look at the clip; the reason.
        """
        ...


BEST, SWAPPED_BEST = "expert_best_within_one_frame", "expert_swapped_within_one_frame"
SEEN, HEARD = "sync expert: seen", "sync expert: heard"
"""Names of the features that chance is measured from."""


def _share(name: str, title: str, better: Literal["higher"] | None) -> Measure:
    return Measure(name=name, title=title, unit="%", scale=100.0, digits=1, better=better)


class ExpertJudge:
    """The data set's own expert, asked twice.

    Where is the best match? That it lies within a frame means something as far as the same with another clip's sound
    (`chance`) does so less often. And is it sure? Offsets count where its confidence is beyond what another clip's
    sound reaches on real clips, which is strict: soft or noisy clips have less of it, in step or not.

    Args:
        expert: trained on the data set.
    """

    measures: ClassVar[tuple[Measure, ...]] = (
        _share(BEST, "sync expert: best match within ±1 frame", "higher"),
        _share(SWAPPED_BEST, "the same with another clip's sound", None),
        _share("expert_within_one_frame", "sync expert: sure, and within ±1 frame", "higher"),
        Measure(name="expert_lse_c", title="sync expert: confidence", better="higher"),
        Measure(name="expert_lse_d", title="sync expert: least distance", better="lower"),
        Measure(name="expert_at_zero", title="sync expert: distance as it is", better="lower"),
        Measure(name="expert_offset_frames", title="sync expert: offset (+: sound leads)", unit="frames"),
        Measure(name="expert_offset_ms", title="sync expert: offset (+: sound leads)", unit="ms", digits=0),
        Measure(
            name="expert_desync_seconds", title="sync expert: |offset|, both ends", unit="s", digits=3, better="lower"
        ),
    )

    def __init__(self, *, expert: SyncExpert) -> None:
        self.expert = expert

    def protocol(self) -> Mapping[str, str]:
        return {"expert": self.expert.fingerprint()}

    def judge(self, sample: Sample) -> Measured:
        waveform = sample.clip.waveform
        if waveform is None:
            raise ValueError("there is no sound")
        require_frame_rate(sample)
        crops = mouth_crops(sample.clip.frames, sample.mouth.boxes, size=self.expert.config.side)
        seen, heard = self.expert.embed(crops, waveform)
        found = embedding_sync(seen, heard)
        details = {"expert_distances": json_numbers(found.distances, 4)}
        features = {SEEN: seen, HEARD: heard}
        offset = found.refined_offset_frames
        values: dict[str, Row | float | None] = {
            BEST: float(abs(offset) <= 1),
            "expert_within_one_frame": 0.0,
            "expert_lse_c": found.lse_c,
            "expert_lse_d": found.lse_d,
            "expert_at_zero": found.at_zero,
        }
        if found.lse_c < self.expert.config.least_confidence:
            note = "the sync expert finds that sound and mouth match at no offset"
            return Measured(values=values, details=details, features=features, notes=[note])
        window = min(round(DESYNC_SECONDS * FRAMES_PER_SECOND), seen.shape[0])
        ends = [
            embedding_sync(seen[part], heard[part]) for part in (slice(0, window), slice(seen.shape[0] - window, None))
        ]
        values |= {
            "expert_within_one_frame": float(abs(offset) <= 1),
            "expert_offset_frames": offset,
            "expert_offset_ms": 1000 * offset / FRAMES_PER_SECOND,
            "expert_desync_seconds": desync_seconds(ends),
        }
        return Measured(values=values, details=details, features=features)

    @staticmethod
    def chance(clips: Sequence[Mapping[str, torch.Tensor]]) -> list[float]:
        """1 for each clip, by its features, whose best match with the next clip's sound lies within a frame, else 0."""
        found = []
        for clip, other in zip(clips, [*clips[1:], *clips[:1]], strict=True):
            count = min(clip[SEEN].shape[0], other[HEARD].shape[0])
            with suppress(ValueError):  # too short for an offset
                best = embedding_sync(clip[SEEN][:count], other[HEARD][:count]).refined_offset_frames
                found.append(float(abs(best) <= 1))
        return found if len(clips) > 1 else []


class SyncNetJudge:
    """SyncNet, by the published protocol but for the faces' detector, which is the evaluation's own.

    Args:
        network: with weights.
        edge: what stands beyond the ends of the sound; `zero` is the published code.
        max_shift: in frames, either way.
    """

    measures: ClassVar[tuple[Measure, ...]] = (
        Measure(name="lse_c", title="LSE-C", better="higher"),
        Measure(name="lse_d", title="LSE-D", better="lower"),
        Measure(name="lse_at_zero", title="SyncNet: distance as it is", better="lower"),
        Measure(name="lse_offset_frames", title="SyncNet: offset (+: sound leads)", unit="frames"),
        Measure(name="lse_absolute_offset_frames", title="SyncNet: distance from sync", unit="frames", better="lower"),
    )

    def __init__(self, *, network: SyncNet, edge: Edge, max_shift: int) -> None:
        self.network, self.edge, self.max_shift = network, edge, max_shift

    def protocol(self) -> Mapping[str, str]:
        return {
            "syncnet": self.network.fingerprint(),
            "syncnet_edge": self.edge,
            "syncnet_max_shift": str(self.max_shift),
        }

    def judge(self, sample: Sample) -> Measured:
        waveform = sample.clip.waveform
        if waveform is None:
            raise ValueError("there is no sound")
        require_frame_rate(sample)
        faces = crop_faces(sample.clip.frames, sample.face.boxes)
        found = embedding_sync(*self.network.embed(faces, waveform), max_shift=self.max_shift, edge=self.edge)
        return Measured(
            values={
                "lse_c": found.lse_c,
                "lse_d": found.lse_d,
                "lse_at_zero": found.at_zero,
                "lse_offset_frames": found.offset_frames,
                "lse_absolute_offset_frames": abs(found.offset_frames),
            },
            details={"syncnet_distances": json_numbers(found.distances, 3)},
        )


def require_frame_rate(sample: Sample) -> None:
    """Raises ValueError unless the clip was read at 25 frames a second, which the networks were trained at."""
    if not math.isclose(sample.clip.frames_per_second, FRAMES_PER_SECOND):
        raise ValueError(
            f"got {sample.clip.frames_per_second:g} frames a second; sync networks want {FRAMES_PER_SECOND:g}: read "
            "the clip at that rate"
        )


def desync_seconds(ends: Sequence[EmbeddingSync]) -> float:
    """Mean absolute offset of windows, in seconds: what DeSync reports, with offsets finer than its grid of 0.2 s."""
    return sum(abs(end.refined_offset_frames) for end in ends) / len(ends) / FRAMES_PER_SECOND


def json_numbers(values: Sequence[float] | torch.Tensor, digits: int) -> list[float | None]:
    """Rounded; JSON has no NaN."""
    return [round(float(value), digits) if math.isfinite(value) else None for value in values]
