"""What must hold before a distillation starts, beyond what each part checks about itself."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from hh_train.data.datamodule import LatentDataModule
from hh_train.model.checkpoint import ParameterDtype, load_model
from hh_train.model.recompute import ActivationCheckpointing
from hh_train.model.transformer import ComputeDtype, SandwichTransformer
from hh_train.training.checkpoints import Provenance, checkpoint_folder
from hh_train.training.dmd2.adversarial import Adversarial
from hh_train.training.dmd2.alignment import ImplicitAlignment
from hh_train.training.dmd2.critic import CriticFlow
from hh_train.training.dmd2.matching import DistributionMatching
from hh_train.training.dmd2.regression import OdeRegression
from hh_train.training.dmd2.turn_checkpoint import TurnCheckpoint
from hh_train.types import Modality

log = logging.getLogger(__name__)


def load_teacher(
    folder: str,
    *,
    accept_distilled: bool = False,
    compute_dtype: ComputeDtype = "bfloat16",
    parameter_dtype: ParameterDtype = "float32",
    device: str = "cpu",
    compile_layers: bool = False,
    activation_checkpointing: ActivationCheckpointing = "none",
) -> SandwichTransformer:
    """The network of a checkpoint folder, to distill.

    Raises ValueError for one that was distilled itself: its velocities away from its own few noise levels mean little,
    and it knows no guidance. `accept_distilled` takes it all the same.
    """
    folder = str(checkpoint_folder(folder))
    provenance = Provenance.read(folder)
    if provenance is not None and provenance.is_student:
        fault = f"the teacher {folder} is a distilled student ({provenance.num_steps} steps)"
        if not accept_distilled:
            raise ValueError(
                f"{fault}: give the checkpoint of its pretraining or fine-tuning, or set "
                "module.teacher.accept_distilled=true with a guidance of 1"
            )
        log.warning("%s, and is taken as a teacher all the same", fault)
    return load_model(
        folder,
        compute_dtype=compute_dtype,
        parameter_dtype=parameter_dtype,
        device=device,
        compile_layers=compile_layers,
        activation_checkpointing=activation_checkpointing,
    )


def require_turns(trainer: Trainer, *, batches_per_turn: int) -> None:
    """Raises ValueError where the trainer would gather gradients, or write checkpoints, within a turn."""
    if trainer.accumulate_grad_batches != 1:
        raise ValueError(
            f"got trainer.accumulate_grad_batches={trainer.accumulate_grad_batches}, wanted 1: student and critic "
            "step in a cadence of their own; set module.batches_per_turn, which keeps it"
        )
    if trainer.gradient_clip_val:
        raise ValueError(
            f"got trainer.gradient_clip_val={trainer.gradient_clip_val}, wanted none: each network is clipped by "
            "itself; set module.gradient_clip"
        )
    within = [
        type(callback).__name__
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint) and not isinstance(callback, TurnCheckpoint)
    ]
    if batches_per_turn > 1 and within:
        raise ValueError(
            f"got the checkpoint callbacks {within} with {batches_per_turn} batches a turn: they may write in the "
            "middle of a turn, whose gradients would be lost; use hh_train.training.dmd2.turn_checkpoint.TurnCheckpoint"
        )


def require_modalities(datamodule: LatentDataModule, weights: Mapping[Modality, float]) -> None:
    """Raises ValueError for a weight above 0 of a modality that no training clip has to generate, and for weights that
    are all 0.
    """
    if not any(weight > 0 for weight in weights.values()):
        raise ValueError("got weights of 0 for video and audio: there is nothing to distill")
    columns = [index.columns for index in datamodule.plan.indexes]
    given = datamodule.conditions.audio_to_video_share >= 1
    present: dict[Modality, Any] = {
        Modality.VIDEO: any((one.grid[:, 0] > 0).any() for one in columns),
        Modality.AUDIO: any((one.audio > 0).any() for one in columns) and not given,
    }
    for modality, weight in weights.items():
        if weight > 0 and not present[modality]:
            name = modality.name.lower()
            reason = "every clip's sound is given (audio_to_video_share=1)" if given else f"no training clip has {name}"
            raise ValueError(
                f"got module.{name}_weight={weight}, but {reason}: set module.{name}_weight=0, or bring clips to "
                f"learn {name} from"
            )


def require_objectives(
    matching: DistributionMatching | None,
    critic_flow: CriticFlow | None,
    adversarial: Adversarial | None,
    regression: OdeRegression | None,
) -> None:
    """Raises ValueError for a student without an objective, and for a critic without one or without a use."""
    if matching is None and adversarial is None and regression is None:
        raise ValueError("the student has no objective: set matching, adversarial or regression")
    if matching is not None and critic_flow is None:
        raise ValueError("matching needs a critic that follows the student: set critic_flow, or leave matching out")
    if critic_flow is not None and matching is None and (adversarial is None or adversarial.features != "critic"):
        raise ValueError("critic_flow trains a critic that nothing looks at: set matching, or leave critic_flow out")


def require_adapters_alone(alignment: ImplicitAlignment | None, student: SandwichTransformer | None) -> None:
    """Raises ValueError for what does not go together with adapters."""
    if alignment is not None:
        raise ValueError(
            "alignment mixes the weights of student and critic, which the factors of adapters are not: set "
            "alignment=null, or adapters=null"
        )
    if student is not None:
        raise ValueError(
            "adapters start from the teacher that they share, and from no other student: leave one of module.student "
            "and module.adapters out"
        )


def require_steps(num_student_steps: int, ema_start: int) -> None:
    """Raises ValueError for a run without steps, and for an average that would never begin."""
    if num_student_steps < 1 or not 0 <= ema_start <= num_student_steps:
        raise ValueError(
            f"got num_student_steps {num_student_steps} and ema_start {ema_start}, wanted at least 1 step and an EMA "
            "that starts within the run (ema_decay: null keeps none)"
        )
