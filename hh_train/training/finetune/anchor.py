"""Fine-tuning a distilled student without losing what distillation gave it: few steps, no guidance."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hh_train.flow.losses import ClipSums, squared_error
from hh_train.flow.path import velocity
from hh_train.inference.guided import Model
from hh_train.model.checkpoint import load_model
from hh_train.model.config import ModelConfig
from hh_train.model.transformer import ComputeDtype, SandwichTransformer
from hh_train.training.checkpoints import Provenance, checkpoint_folder
from hh_train.training.flow_matching import NoisedPack, sums_per_clip
from hh_train.types import Modality, PackedBatch


@dataclass(frozen=True, kw_only=True)
class TeacherCheckpoint:
    """The teacher that a student was distilled from.

    Args:
        checkpoint: its folder, or the output folder of its training.
        compute_dtype: of its passes.
    """

    checkpoint: str
    compute_dtype: ComputeDtype = "bfloat16"

    def load(self, student: ModelConfig) -> SandwichTransformer:
        """Raises ValueError for a student in its place, and for another architecture than the student's."""
        folder = checkpoint_folder(self.checkpoint)
        provenance = Provenance.read(folder)
        if provenance is not None and provenance.is_student:
            raise ValueError(f"{self.checkpoint} is a distilled student itself: give the checkpoint of its teacher")
        teacher = load_model(folder, compute_dtype=self.compute_dtype)
        if teacher.config != student:
            raise ValueError(f"{self.checkpoint} is of another architecture than the student: give its own teacher")
        return teacher.requires_grad_(False)


def shift_losses(
    adapted: Model, student: Model, teacher: Model, batch: PackedBatch, pack: NoisedPack
) -> dict[Modality, ClipSums]:
    """Squared error of each modality, summed per clip, to student + (data - teacher).

    Flow matching would pull a student back to the mean of all clips that a noised one can come from, which is what a
    teacher predicts and a student of few steps must not. Here its own prediction v_S is moved by as much as the data's
    velocity v differs from what the teacher predicts, v_S + v - v_T: at the optimum by E[v] - v_T, which is 0 for data
    that the teacher knows already, whatever the student predicts.

    Args:
        adapted: the network in training.
        student, teacher: as they were before; they get no gradient.
    """
    with torch.no_grad():
        before, known = student(batch.with_latents(*pack.state)), teacher(batch.with_latents(*pack.state))
    prediction = adapted(batch.with_latents(*pack.state))
    errors = tuple(
        squared_error(getattr(prediction, name), getattr(before, name) + data - getattr(known, name))
        for name, data in (
            ("video", velocity(pack.clean[0], pack.noise[0])),
            ("audio", velocity(pack.clean[1], pack.noise[1])),
        )
    )
    return sums_per_clip((errors[0], errors[1]), batch)
