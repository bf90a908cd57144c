"""Lips against sound: the correlation of opening and loudness always, AV-Align always, embeddings where a network is
given.

All offsets are positive where the sound leads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch

from hh_train.metrics.clip_metric import Row, Score, score_rows
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurement import ClipMeasurement
from hh_train.metrics.measurer import Measured, Sample
from hh_train.metrics.sound.tracks import require_sound
from hh_train.metrics.sync.av_align import av_align
from hh_train.metrics.sync.embedding_distance import MAX_SHIFT, Edge
from hh_train.metrics.sync.expert import SyncExpert
from hh_train.metrics.sync.judges import HEARD, SEEN, SWAPPED_BEST, ExpertJudge, SyncJudge, SyncNetJudge, json_numbers
from hh_train.metrics.sync.lip_sync import (
    LipSync,
    SyncMeasurement,
    loudness_track,
    measure_sync,
    swapped_correlations,
    why_undefined,
)
from hh_train.metrics.sync.syncnet import SyncNet

_CERTAIN = 0.05
_SWAPPED = "swapped_correlation"
_OF_SETS = (_SWAPPED, SWAPPED_BEST)
"""Measured on all clips of a system together."""
_OPENING, _LOUDNESS = "mouth_opening", "loudness"
_ALWAYS = (
    Measure(name="within_one_frame", title="in sync within ±1 frame", unit="%", scale=100.0, digits=1, better="higher"),
    Measure(name="zero_lag_correlation", title="mouth-to-sound correlation", better="higher"),
    Measure(name=_SWAPPED, title="the same with another clip's sound"),
    Measure(name="correlated", title="correlated, p < 0.05", unit="%", scale=100.0, digits=1, better="higher"),
    Measure(name="absolute_offset_frames", title="distance from sync", unit="frames", better="lower"),
    Measure(name="offset_frames", title="offset (+: sound leads)", unit="frames"),
    Measure(name="offset_ms", title="offset (+: sound leads)", unit="ms", digits=0),
    Measure(name="av_align", title="AV-Align", better="higher"),
)


class SyncMeasurer:
    """Measures sync. A still mouth, a silent clip and a clip without a face are undefined, never numbers.

    Args:
        expert: folder of the data set's sync expert (`hh-train train_sync_expert`); null leaves it out.
        syncnet: SyncNet's weights; null leaves LSE-C and LSE-D out.
        edge: for SyncNet: `mask` compares the windows that exist, `zero` is the published code.
        max_shift: for SyncNet, how many frames either way are compared.
    """

    def __init__(
        self,
        *,
        expert: str | None = None,
        syncnet: str | None = None,
        edge: Edge = "mask",
        max_shift: int = MAX_SHIFT,
    ) -> None:
        self.judges: list[SyncJudge] = []
        if expert is not None:
            self.judges.append(ExpertJudge(expert=SyncExpert.load(expert)))
        if syncnet is not None:
            self.judges.append(SyncNetJudge(network=SyncNet.load(syncnet), edge=edge, max_shift=max_shift))

    @property
    def measures(self) -> tuple[Measure, ...]:
        return (*_ALWAYS, *(measure for judge in self.judges for measure in judge.measures))

    def protocol(self) -> Mapping[str, str]:
        """The networks, how their embeddings are compared, and the library that finds flow."""
        found = {"opencv": version("opencv-python-headless")}
        return found | {name: value for judge in self.judges for name, value in judge.protocol().items()}

    def measure(self, sample: Sample) -> Measured:
        """Measures one clip.

        Raises:
            ValueError: for sound of another rate than 16 kHz, or of another length than the picture.
        """
        clip = sample.clip
        if sample.track_seconds is not None:
            sample.track_seconds.require_match()
        waveform = None if clip.waveform is None else require_sound(clip)
        values: dict[str, Row | float | None] = {m.name: None for m in self.measures if m.name not in _OF_SETS}
        values["av_align"] = av_align(clip)
        details: dict[str, Any] = {}
        features: dict[str, torch.Tensor] = {}
        notes: list[str] = []
        if waveform is not None:
            loudness = loudness_track(
                waveform, samples_per_second=clip.samples_per_second, frames_per_second=clip.frames_per_second
            )
            details[_LOUDNESS] = json_numbers(loudness, 3)
        try:
            mouth = sample.mouth
        except ValueError as error:
            return Measured(values=values, notes=[f"sync: {error}"], details=details)
        details[_OPENING] = json_numbers(mouth.opening, 4)
        found = measure_sync(
            mouth.opening,
            waveform,
            samples_per_second=clip.samples_per_second,
            frames_per_second=clip.frames_per_second,
        )
        if found.reason:
            notes.append(f"sync: {found.reason}")
        values |= _opening_values(found, clip.frames_per_second)
        for judge in self.judges if why_undefined(mouth.opening, waveform) is None else ():
            try:
                judged = judge.judge(sample)
            except ValueError as error:
                notes.append(f"sync: {error}")
                continue
            values |= judged.values
            details |= judged.details
            features |= judged.features
            notes += [f"sync: {note}" for note in judged.notes]
        return Measured(values=values, notes=notes, details=details, features=features)

    def measure_set(
        self, clips: Sequence[ClipMeasurement], reference: Sequence[ClipMeasurement], *, seed: int
    ) -> Mapping[str, Score]:
        """Each mouth with the sound of the next clip: what chance gives on these clips."""
        del reference
        known = [clip.details for clip in clips if clip.details.get(_OPENING) and clip.details.get(_LOUDNESS)]
        swapped = {
            _SWAPPED: swapped_correlations(
                [torch.tensor(details[_OPENING]) for details in known],
                [torch.tensor(details[_LOUDNESS]) for details in known],
            ),
            SWAPPED_BEST: ExpertJudge.chance(
                [clip.features for clip in clips if {SEEN, HEARD} <= clip.features.keys()]
            ),
        }
        return {name: _chance(values, seed) for name, values in swapped.items() if values}


def _chance(values: Sequence[float], seed: int) -> Score:
    rows = torch.tensor([[value, 1.0] for value in values], dtype=torch.float64)
    return score_rows(rows, torch.zeros(len(rows), dtype=torch.bool), seed=seed)


def _opening_values(found: SyncMeasurement, frames_per_second: float) -> dict[str, float | None]:
    offset = found.offset_frames
    return LipSync.values_of(found) | {
        "correlated": None if found.p_value is None else float(found.p_value < _CERTAIN),
        "offset_frames": offset,
        "offset_ms": None if offset is None else 1000 * offset / frames_per_second,
    }
