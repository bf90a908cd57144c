"""Motion of clips: what needs no weights always, VBench's measures where their networks are given."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version

import torch

from hh_train.metrics.clip_metric import Row
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurer import Measured, Sample
from hh_train.metrics.motion.cuts import count_cuts, prompt_shots
from hh_train.metrics.motion.frame_features import FrameFeatures
from hh_train.metrics.motion.motion_networks import FlowNetwork, FrameInterpolator
from hh_train.metrics.motion.vbench import VBench, VBenchNetworks, measure_vbench
from hh_train.metrics.motion.weight_free import jerk, landmark_jerk, measure_motion

_ALWAYS = (
    Measure(name="flicker", title="steadiness (1: still)", digits=4),
    Measure(name="flow", title="flow", unit="short sides/s", digits=3),
    Measure(name="dynamic_flow", title="strongest flow (dynamic degree)", unit="short sides/s", digits=3),
    Measure(name="warp_error", title="warp error", digits=4),
    Measure(name="jerk", title="jerk", unit="short sides/s³", digits=0),
    Measure(name="mouth_jerk", title="jerk of the mouth's opening", unit="1/s³", digits=0),
    Measure(name="landmark_jerk", title="jerk of the face's landmarks", unit="short sides/s³", digits=0),
    Measure(name="num_cuts", title="cuts", digits=2),
    Measure(name="cut_error", title="cuts too many or too few", digits=2, better="lower"),
)
_BY_NETWORK = {
    "subject_consistency": Measure(
        name="subject_consistency", title="subject consistency (VBench)", digits=4, better="higher"
    ),
    "background_consistency": Measure(
        name="background_consistency", title="background consistency (VBench)", digits=4, better="higher"
    ),
    "temporal_flickering": Measure(
        name="temporal_flickering", title="no flickering, still clips (VBench)", digits=4, better="higher"
    ),
    "motion_smoothness": Measure(
        name="motion_smoothness", title="motion smoothness (VBench)", digits=4, better="higher"
    ),
    "dynamic_degree": Measure(name="dynamic_degree", title="dynamic (VBench)", unit="%", scale=100.0, digits=1),
}
assert tuple(_BY_NETWORK) == VBench.names


class MotionMeasurer:
    """Measures motion.

    Args:
        subject: VBench takes DINO ViT-B/16 (`DinoFeatures`); null leaves subject consistency out, and so on.
        background: VBench takes CLIP ViT-B/32 (`ClipImageFeatures`).
        flow: VBench takes RAFT (`TorchScriptFlow`); dynamic degree, and flickering of still clips.
        interpolator: VBench takes AMT-S (`TorchScriptInterpolator`); motion smoothness.
    """

    def __init__(
        self,
        *,
        subject: FrameFeatures | None = None,
        background: FrameFeatures | None = None,
        flow: FlowNetwork | None = None,
        interpolator: FrameInterpolator | None = None,
    ) -> None:
        self.networks = VBenchNetworks(subject=subject, background=background, flow=flow, interpolator=interpolator)

    @property
    def measures(self) -> tuple[Measure, ...]:
        return (*_ALWAYS, *(measure for name, measure in _BY_NETWORK.items() if name in self._vbench_names()))

    def _vbench_names(self) -> set[str]:
        given = self.networks
        names = {
            "subject_consistency": given.subject,
            "background_consistency": given.background,
            "temporal_flickering": given.flow,
            "motion_smoothness": given.interpolator,
            "dynamic_degree": given.flow,
        }
        return {name for name, network in names.items() if network is not None}

    def protocol(self) -> Mapping[str, str]:
        """The libraries that find flow and cuts, and the networks."""
        networks = {name: network.fingerprint() for name, network in vars(self.networks).items() if network is not None}
        return {
            "opencv": version("opencv-python-headless"),
            "scenedetect": version("scenedetect-headless"),
            **networks,
        }

    def measure(self, sample: Sample) -> Measured:
        """Measures one clip. Raises ValueError with fewer than two frames."""
        frames, rate = sample.clip.frames, sample.clip.frames_per_second
        values: dict[str, Row | float | None] = dict(vars(measure_motion(frames, frames_per_second=rate)))
        notes: list[str] = []
        values |= _face_jerks(sample, notes)
        values["num_cuts"] = cuts = float(count_cuts(frames, frames_per_second=rate))
        description = sample.fields.get("description")
        if isinstance(description, str):
            values["cut_error"] = abs(cuts - (prompt_shots(description) - 1))
        else:
            notes.append("it has no description to count shots in")
        by_network, reasons = measure_vbench(frames, frames_per_second=rate, networks=self.networks)
        return Measured(values=values | by_network, notes=[*notes, *reasons])


def _face_jerks(sample: Sample, notes: list[str]) -> dict[str, Row | float | None]:
    """How much mouth and landmarks tremble; landmarks only of a face finder that has them."""
    rate = sample.clip.frames_per_second
    found: dict[str, Row | float | None] = {}
    try:
        landmarks = sample.face.landmarks
        if landmarks is not None:
            height, width = sample.clip.frames.shape[1:3]
            in_short_sides = landmarks.double() * torch.tensor([width, height]).double() / min(height, width)
            found["landmark_jerk"] = landmark_jerk(in_short_sides, frames_per_second=rate)
        found["mouth_jerk"] = jerk(sample.mouth.opening.double()[:, None], frames_per_second=rate)
    except ValueError as error:
        notes.append(str(error))
    return found
