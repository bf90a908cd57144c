"""DMD2: a few-step student without guidance from a teacher with it (arXiv:2405.14867)."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, cast

import torch
from jaxtyping import Float
from lightning import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from hh_train.flow.clip_noise import ClipNoise
from hh_train.flow.guidance import Guidance
from hh_train.flow.losses import ClipSums
from hh_train.flow.noise_levels import NoiseLevelDistribution
from hh_train.flow.path import clean_from_velocity
from hh_train.flow.solvers import State
from hh_train.inference.guided import GuidedVelocity
from hh_train.model.transformer import SandwichTransformer
from hh_train.training.dmd2.losses import distribution_matching_gradient, distribution_matching_loss
from hh_train.training.dmd2.rollout import BackwardSimulation
from hh_train.training.ema import exponential_moving_average
from hh_train.training.flow_matching import (
    GENERATED,
    NoisedPack,
    flow_matching_losses,
    sums_per_clip,
    weighted_objective,
)
from hh_train.training.optim import AdamWRecipe
from hh_train.training.sharding import shard_layers
from hh_train.types import Modality, PackedBatch


class DMD2Module(LightningModule):
    """Student and critic start as copies of the teacher. Every batch trains the critic once; every
    `critic_steps_per_student_step`-th batch trains the student first, and the critic then learns on that same sample.

    Args:
        teacher: stays as it is.
        null_text: features of the null prompt [Nt, C], for the teacher's guidance.
        rollout: how the student's samples are made; its sampler is the one to generate with afterwards.
        guidance: of the teacher; student and critic have none.
        noise_levels: at which teacher and critic judge a sample, and at which the critic learns.
        student_optimizer, critic_optimizer: recipes.
        num_student_steps: training stops after so many.
        critic_steps_per_student_step: two-time-scale update rule (section 4.2).
        video_weight, audio_weight: of the modalities in both losses.
        ema_decay: of the student, from student step `ema_start` on; None keeps no EMA.
        gradient_clip: largest gradient norm of each network; None clips nothing.
        seed: of all noise, noise levels and exits.
    """

    def __init__(
        self,
        *,
        teacher: SandwichTransformer,
        null_text: Float[Tensor, "Nt C"],
        rollout: BackwardSimulation,
        guidance: Guidance,
        noise_levels: NoiseLevelDistribution,
        student_optimizer: AdamWRecipe,
        critic_optimizer: AdamWRecipe,
        num_student_steps: int,
        critic_steps_per_student_step: int = 5,
        video_weight: float = 1.0,
        audio_weight: float = 1.0,
        ema_decay: float | None = 0.99,
        ema_start: int = 0,
        gradient_clip: float | None = 10.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if critic_steps_per_student_step < 1:
            raise ValueError(f"want at least 1 critic step per student step, got {critic_steps_per_student_step}")
        self.automatic_optimization = False
        self.student = deepcopy(teacher).train().requires_grad_(True)
        self.critic = deepcopy(teacher).train().requires_grad_(True)
        self.ema = None if ema_decay is None else exponential_moving_average(self.student, decay=ema_decay)
        # Not a submodule: the teacher neither trains nor belongs into the checkpoints.
        self._frozen = [teacher.eval().requires_grad_(False)]
        self.null_text = null_text
        self.rollout = rollout
        self.guidance = guidance
        self.noise_levels = noise_levels
        self.recipes = {"student": student_optimizer, "critic": critic_optimizer}
        self.num_student_steps = num_student_steps
        self.critic_steps_per_student_step = critic_steps_per_student_step
        self.weights = {Modality.VIDEO: video_weight, Modality.AUDIO: audio_weight}
        self.ema_start = ema_start
        self.gradient_clip = gradient_clip
        self.seed = seed
        self.student_steps = 0
        self.critic_steps = 0

    @property
    def teacher(self) -> SandwichTransformer:
        """The frozen network."""
        return self._frozen[0]

    @property
    def exported_model(self) -> SandwichTransformer:
        """The student to use after training: its EMA where there is one."""
        return self.student if self.ema is None else cast(SandwichTransformer, self.ema.module)

    @property
    def exported_steps(self) -> int:
        """Student steps so far."""
        return self.student_steps

    def configure_model(self) -> None:
        """Shards every network when the strategy brought a device mesh (FSDP2)."""
        if self.device_mesh is not None:
            averaged = [] if self.ema is None else [cast(SandwichTransformer, self.ema.module)]
            for network in [self.student, self.critic, self.teacher, *averaged]:
                shard_layers(network, self.device_mesh)

    def on_fit_start(self) -> None:
        self._frozen[0] = self.teacher.to(self.device)

    def on_train_start(self) -> None:
        if self.student_steps >= self.num_student_steps:  # resumed from its own end
            self.trainer.should_stop = True

    def configure_optimizers(self) -> tuple[list[Optimizer], list[LambdaLR]]:
        student, student_schedule = self.recipes["student"].build(
            self.student.parameters(), num_steps=self.num_student_steps
        )
        critic, critic_schedule = self.recipes["critic"].build(
            self.critic.parameters(), num_steps=self.num_student_steps * self.critic_steps_per_student_step
        )
        return [student, critic], [student_schedule, critic_schedule]

    def training_step(self, batch: PackedBatch, batch_idx: int) -> None:  # noqa: ARG002
        draws = ClipNoise(batch, seed=self.seed, purpose="distill", step=self.critic_steps)
        exit_step = self.rollout.exit_step(seed=self.seed, step=self.critic_steps)
        student_turn = (self.critic_steps + 1) % self.critic_steps_per_student_step == 0
        with torch.set_grad_enabled(student_turn):
            generated = self.rollout(self.student, batch, draws, exit_step=exit_step)
        if student_turn:
            self._student_step(batch, generated, draws)
        self._critic_step(batch, (generated[0].detach(), generated[1].detach()), draws)
        self.log("student_steps", float(self.student_steps), prog_bar=True)
        self.log("critic_steps", float(self.critic_steps))
        if self.student_steps >= self.num_student_steps:
            self.trainer.should_stop = True

    def _student_step(self, batch: PackedBatch, generated: State, draws: ClipNoise) -> None:
        gradients = self.matching_gradients(batch, (generated[0].detach(), generated[1].detach()), draws)
        values = (
            distribution_matching_loss(generated[0], gradients[0]),
            distribution_matching_loss(generated[1], gradients[1]),
        )
        losses = sums_per_clip(values, batch)
        self._update("student", weighted_objective(losses, self.weights))
        self.student_steps += 1
        if self.ema is not None and self.student_steps >= self.ema_start:
            self.ema.update_parameters(self.student)
        self._log_losses("student", losses)
        self._log_statistics(generated, batch)

    def _critic_step(self, batch: PackedBatch, generated: State, draws: ClipNoise) -> None:
        pack = NoisedPack.draw(batch, generated, draws, self.noise_levels)
        losses = flow_matching_losses(self.critic, batch, pack)
        self._update("critic", weighted_objective(losses, self.weights))
        self.critic_steps += 1
        self._log_losses("critic", losses)

    @torch.no_grad()
    def matching_gradients(self, batch: PackedBatch, generated: State, draws: ClipNoise) -> tuple[Tensor, Tensor]:
        """From what the guided teacher makes of the noised sample to what the critic makes of it, normalized."""
        pack = NoisedPack.draw(batch, generated, draws, self.noise_levels)
        teacher = GuidedVelocity(self.teacher, batch, guidance=self.guidance, null_text=self.null_text)
        teacher_velocity = teacher(pack.state, pack.levels)
        prediction = self.critic(batch.with_latents(*pack.state))
        critic_velocity = (prediction.video, prediction.audio)
        clip = (batch.video_clip, batch.audio_clip)
        given = (batch.video_is_given, batch.audio_is_given)
        video, audio = (
            distribution_matching_gradient(
                generated[m],
                clean_from_velocity(pack.state[m], critic_velocity[m], pack.levels[clip[m]][:, None]),
                clean_from_velocity(pack.state[m], teacher_velocity[m], pack.levels[clip[m]][:, None]),
                ~given[m],
                clip[m],
                num_clips=batch.num_clips,
            )
            for m in GENERATED
        )
        return video, audio

    def _update(self, network: str, objective: Tensor) -> None:
        """One optimizer step of "student" or "critic"."""
        index = ["student", "critic"].index(network)
        optimizer = cast(list[LightningOptimizer], self.optimizers())[index]
        schedule = cast(list[LambdaLR], self.lr_schedulers())[index]
        self.toggle_optimizer(optimizer)
        optimizer.zero_grad(set_to_none=True)
        self.manual_backward(objective)
        limit = float("inf") if self.gradient_clip is None else self.gradient_clip
        norm = torch.nn.utils.clip_grad_norm_(getattr(self, network).parameters(), limit)
        optimizer.step()
        schedule.step()
        self.untoggle_optimizer(optimizer)
        self.log(f"{network}/gradient_norm", norm)

    def _log_losses(self, network: str, losses: Mapping[Modality, ClipSums]) -> None:
        for modality, sums in losses.items():
            if sums.count.sum() > 0:
                self.log(f"{network}/{modality.name.lower()}", sums.mean().detach(), prog_bar=network == "student")

    def _log_statistics(self, generated: State, batch: PackedBatch) -> None:
        """Mean and spread of the student's latents beside the data's: over-saturation shows here first."""
        for name, ours, data in (("video", generated[0], batch.video), ("audio", generated[1], batch.audio)):
            if len(data):
                self.log(f"student/{name}_std", ours.detach().std())
                self.log(f"data/{name}_std", data.std())
                self.log(f"student/{name}_mean", ours.detach().mean())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["dmd2_steps"] = {"student": self.student_steps, "critic": self.critic_steps}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.student_steps = checkpoint["dmd2_steps"]["student"]
        self.critic_steps = checkpoint["dmd2_steps"]["critic"]
