"""DMD2: a few-step student without guidance from a teacher with it (arXiv:2405.14867)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float
from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from hh_train.flow.clip_noise import ClipNoise
from hh_train.inference.guided import Model
from hh_train.model.lora.fingerprint import base_fingerprint
from hh_train.model.size import forward_flops
from hh_train.model.transformer import SandwichTransformer
from hh_train.training.dmd2.adapters import LowRank, SharedBase
from hh_train.training.dmd2.adversarial import Adversarial, AdversarialCritic, AdversarialStudent
from hh_train.training.dmd2.alignment import ImplicitAlignment
from hh_train.training.dmd2.cadence import Cadence
from hh_train.training.dmd2.critic import CriticFlow
from hh_train.training.dmd2.matching import DistributionMatching
from hh_train.training.dmd2.networks import FullCopies, Trained
from hh_train.training.dmd2.preconditions import require_adapters_alone, require_objectives, require_steps
from hh_train.training.dmd2.regression import OdeRegression
from hh_train.training.dmd2.rollout import BackwardSimulation
from hh_train.training.dmd2.turn import Objective, Part, Turn
from hh_train.training.ema import exponential_moving_average
from hh_train.training.optim import AdamWRecipe
from hh_train.types import Modality, PackedBatch

NETWORKS: tuple[Trained, ...] = ("student", "critic")
"""In the order of their optimizers."""
ON_PROGRESS_BAR = ("student/video", "student/audio")


class DMD2Module(LightningModule):
    """Student and critic start from the teacher. Every turn trains the critic, and every
    `critic_steps_per_student_step`-th turn trains the student too, both on the same samples of the student.

    Args:
        teacher: stays as it is.
        null_text: features of the null prompt [Nt, C], for the teacher's guidance.
        rollout: how the student's samples are made; its sampler is the one to generate with afterwards.
        matching: the student's objective of DMD; None leaves it out.
        critic_flow: the critic's objective; None leaves it out.
        regression: another objective of the student, its own distillation method without the others; None has none.
        adversarial: a discriminator for both; None has none.
        alignment: pulls the critic after the student; None does not.
        adapters: makes student and critic adapters of the one teacher; None makes them whole copies.
        student: weights that the student starts from instead of the teacher's.
        student_optimizer, critic_optimizer: recipes; the discriminator learns as the critic does.
        num_student_steps: training stops after so many.
        critic_steps_per_student_step: two-time-scale update rule (section 4.2).
        batches_per_turn: gradients of so many batches are averaged for each step.
        video_weight, audio_weight: of the modalities in every objective.
        ema_decay: of the student, from student step `ema_start` on; None keeps no EMA.
        gradient_clip: largest gradient norm of each network; None clips nothing.
        seed: of all noise, noise levels, exits and of the discriminator.

    Raises ValueError for settings that leave student or critic without an objective, and for those that do not go
    together.
    """

    def __init__(
        self,
        *,
        teacher: SandwichTransformer,
        null_text: Float[Tensor, "Nt C"],
        rollout: BackwardSimulation,
        matching: DistributionMatching | None,
        critic_flow: CriticFlow | None,
        student_optimizer: AdamWRecipe,
        critic_optimizer: AdamWRecipe,
        num_student_steps: int,
        regression: OdeRegression | None = None,
        adversarial: Adversarial | None = None,
        alignment: ImplicitAlignment | None = None,
        adapters: LowRank | None = None,
        student: SandwichTransformer | None = None,
        critic_steps_per_student_step: int = 5,
        batches_per_turn: int = 1,
        video_weight: float = 1.0,
        audio_weight: float = 1.0,
        ema_decay: float | None = 0.99,
        ema_start: int = 0,
        gradient_clip: float | None = 10.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        require_objectives(matching, critic_flow, adversarial, regression)
        require_steps(num_student_steps, ema_start)
        self.automatic_optimization = False
        self.teacher_fingerprint = base_fingerprint(teacher)
        self.networks: FullCopies | SharedBase
        if adapters is None:
            self.networks = FullCopies(teacher, student)
        else:
            require_adapters_alone(alignment, student)
            self.networks = SharedBase(teacher, adapters, seed=seed)
        self.cadence = Cadence(
            critic_steps_per_student_step=critic_steps_per_student_step, batches_per_turn=batches_per_turn
        )
        averageable = self.networks.averageable()
        self.ema = None if ema_decay is None else exponential_moving_average(averageable, decay=ema_decay)
        self.config = teacher.config
        self.null_text = null_text
        self.rollout = rollout
        self.alignment = alignment
        self.recipes = {"student": student_optimizer, "critic": critic_optimizer}
        self.num_student_steps = num_student_steps
        self.weights = {Modality.VIDEO: video_weight, Modality.AUDIO: audio_weight}
        self.ema_start = ema_start
        self.gradient_clip = gradient_clip
        self.seed = seed
        self._num_passes = 0
        self.discriminator: nn.Module | None = None
        self.parts: dict[Trained, list[Part]] = {
            "student": [part for part in (matching, regression) if part is not None],
            "critic": [] if critic_flow is None else [critic_flow],
        }
        if adversarial is not None:
            self._add(adversarial, teacher)

    def _add(self, adversarial: Adversarial, teacher: SandwichTransformer) -> None:
        num_layers = teacher.config.num_layers
        discriminator = adversarial.discriminator(
            hidden_size=teacher.config.hidden_size, num_layers=num_layers, seed=self.seed
        )
        hidden_states = self.networks.hidden_states(adversarial.features, adversarial.layers_of(num_layers))
        arguments: dict[str, Any] = {
            "settings": adversarial,
            "discriminator": discriminator,
            "hidden_states": hidden_states,
        }
        self.discriminator = discriminator
        self.parts["student"].append(AdversarialStudent(**arguments))
        self.parts["critic"].append(AdversarialCritic(**arguments))

    @property
    def student(self) -> Model:
        return self.networks.student

    @property
    def critic(self) -> Model:
        return self.networks.critic

    @property
    def teacher(self) -> Model:
        """The frozen network."""
        return self.networks.teacher

    @property
    def student_steps(self) -> int:
        return self.cadence.student_steps

    @property
    def critic_steps(self) -> int:
        return self.cadence.critic_steps

    @property
    def exported_model(self) -> SandwichTransformer:
        """The student to use after training: its EMA as soon as there is one."""
        has_average = self.ema is not None and int(self.ema.n_averaged) > 0
        return self.networks.exported(self.ema if has_average else None)

    @contextmanager
    def exporting(self) -> Iterator[SandwichTransformer]:
        """`exported_model`, made once for what is done inside."""
        yield self.exported_model

    @property
    def exported_steps(self) -> int:
        """Student steps so far."""
        return self.student_steps

    def configure_model(self) -> None:
        """Shards every network when the strategy brought a device mesh (FSDP2)."""
        if self.device_mesh is not None:
            self.networks.shard(self.device_mesh, self.ema)
            if self.discriminator is not None:
                fully_shard(self.discriminator, mesh=self.device_mesh["data_parallel"])

    def on_fit_start(self) -> None:
        self.networks.move_teacher(self.device)

    def on_train_start(self) -> None:
        if self.student_steps >= self.num_student_steps:  # resumed from its own end
            self.trainer.should_stop = True

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LambdaLR]]:
        per_student_step = {"student": 1, "critic": self.cadence.critic_steps_per_student_step}
        built = [
            self.recipes[name].build(self.trained(name), num_steps=self.num_student_steps * per_student_step[name])
            for name in NETWORKS
        ]
        return [optimizer for optimizer, _ in built], [schedule for _, schedule in built]

    def trained(self, name: Trained) -> list[nn.Parameter]:
        """The parameters of one of the two optimizers."""
        with_critic = [] if self.discriminator is None else list(self.discriminator.parameters())
        return self.networks.trained(name) + (with_critic if name == "critic" else [])

    def training_step(self, batch: PackedBatch, batch_idx: int) -> None:  # noqa: ARG002
        turn = self.turn(batch)
        for name in self._in_training:
            self._propagate_back(name, Objective.total([part(turn) for part in self.parts[name]]))
        self._num_passes = self._passes_of(turn)
        if self.cadence.trains_student and "generated" in vars(turn):
            self._log_statistics(turn)
        if self.cadence.count_batch():
            self._finish_turn()

    def step_flops(self, batch: PackedBatch) -> float:
        """Of the last training step, which was on this batch: with adapters an upper limit, as the teacher's weights
        need no gradients.
        """
        return float(self._num_passes * forward_flops(self.config, batch.layouts))

    def _passes_of(self, turn: Turn) -> int:
        passes = sum(part.num_passes(turn) for name in self._in_training for part in self.parts[name])
        if "generated" in vars(turn):
            passes += self.rollout.num_evaluations(turn.exit_at) + 2 * self.cadence.trains_student
        return passes

    @property
    def _in_training(self) -> list[Trained]:
        """Who learns in the turn at hand."""
        names = NETWORKS if self.cadence.trains_student else NETWORKS[1:]
        return [name for name in names if self.parts[name]]

    def turn(self, batch: PackedBatch) -> Turn:
        """What the objectives see of a batch. The student's samples have a graph if this is the student's turn."""
        noise = partial(ClipNoise, batch, seed=self.seed, step=self.critic_steps)
        exit_at = self.rollout.exit_at(seed=self.seed, step=self.critic_steps)
        return Turn(
            networks=self.networks,
            null_text=self.null_text,
            batch=batch,
            make_sample=lambda: self.rollout(self.student, batch, noise(purpose="rollout"), exit_at=exit_at),
            trains_student=self.cadence.trains_student,
            sampler=self.rollout.sampler,
            exit_at=exit_at,
            noise=lambda purpose: noise(purpose=purpose),
            weights=self.weights,
        )

    def _propagate_back(self, name: Trained, objective: Objective) -> None:
        optimizer = cast(list[LightningOptimizer], self.optimizers())[NETWORKS.index(name)]
        if self.cadence.is_between_turns:
            optimizer.zero_grad(set_to_none=True)
        self.networks.before_backward(name)
        self.manual_backward(objective.value / self.cadence.batches_per_turn)
        for key, sums in objective.losses.items():
            if sums.count.sum() > 0:
                self.log(f"{name}/{key}", sums.mean().detach(), prog_bar=f"{name}/{key}" in ON_PROGRESS_BAR)

    def _finish_turn(self) -> None:
        trains_student = self.cadence.trains_student
        for name in self._in_training:
            self._optimizer_step(name)
        if trains_student:
            self._after_student_step()
        self.cadence.count_turn()
        self.log("student_steps", float(self.student_steps), prog_bar=True)
        self.log("critic_steps", float(self.critic_steps))
        if self.student_steps >= self.num_student_steps:
            self.trainer.should_stop = True

    def _optimizer_step(self, name: Trained) -> None:
        index = NETWORKS.index(name)
        limit = float("inf") if self.gradient_clip is None else self.gradient_clip
        norm = torch.nn.utils.clip_grad_norm_(self.trained(name), limit)
        cast(list[LightningOptimizer], self.optimizers())[index].step()
        cast(list[LambdaLR], self.lr_schedulers())[index].step()
        self.log(f"{name}/gradient_norm", norm)

    def _after_student_step(self) -> None:
        if self.alignment is not None:
            self.alignment(self.networks.trained("critic"), self.networks.trained("student"))
        if self.ema is not None and self.student_steps + 1 >= self.ema_start:
            self.ema.update_parameters(self.networks.averageable())

    def _log_statistics(self, turn: Turn) -> None:
        """Mean and spread of the student's latents beside the data's: over-saturation shows here first."""
        data = (turn.batch.video, turn.batch.audio)
        for name, ours, theirs in zip(("video", "audio"), turn.sample, data, strict=True):
            if len(theirs):
                self.log(f"student/{name}_std", ours.std())
                self.log(f"data/{name}_std", theirs.std())
                self.log(f"student/{name}_mean", ours.mean())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["cadence"] = self.cadence.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.cadence.load_state_dict(checkpoint["cadence"])
