"""Flow matching on packed clips: what every such training does, and pretraining."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from hh_train.flow.clip_noise import ClipNoise
from hh_train.flow.losses import ClipSums
from hh_train.flow.noise_levels import NoiseLevelDistribution
from hh_train.model.transformer import SandwichTransformer
from hh_train.training.ema import exponential_moving_average
from hh_train.training.flow_matching import NoisedPack, flow_matching_losses, weighted_objective
from hh_train.training.optim import AdamWRecipe, RatedParameters
from hh_train.training.sharding import shard_layers
from hh_train.types import Modality, PackedBatch

NUM_LEVEL_BUCKETS = 4


class FlowTraining(LightningModule):
    """Regresses the velocity of noised clips, one noise level per clip for both modalities.

    Args:
        noise_levels: distribution of the noise level.
        optimizer: recipe of optimizer and schedule.
        video_weight, audio_weight: of the modalities' mean losses in the objective.
        gradient_clip: largest gradient norm; None clips nothing.
        seed: of noise and noise levels.
    """

    model: SandwichTransformer

    def __init__(
        self,
        *,
        noise_levels: NoiseLevelDistribution,
        optimizer: AdamWRecipe,
        video_weight: float = 1.0,
        audio_weight: float = 1.0,
        gradient_clip: float | None = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.noise_levels = noise_levels
        self.recipe = optimizer
        self.weights = {Modality.VIDEO: video_weight, Modality.AUDIO: audio_weight}
        self.gradient_clip = gradient_clip
        self.seed = seed

    @abstractmethod
    def exporting(self) -> AbstractContextManager[SandwichTransformer]:
        """The network to use after training, inside: with averaged weights where an average is kept."""

    @property
    def exported_steps(self) -> int:
        """Optimizer steps so far."""
        return self.global_step

    def rated_parameters(self) -> Sequence[RatedParameters]:
        """What is trained, and at which share of the learning rate."""
        return [RatedParameters(parameters=tuple(self.model.parameters()))]

    def losses(self, model: SandwichTransformer, batch: PackedBatch, pack: NoisedPack) -> dict[Modality, ClipSums]:
        """Of each modality and clip."""
        return flow_matching_losses(model, batch, pack)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        num_steps = int(self.trainer.estimated_stepping_batches)
        optimizer, schedule = self.recipe.build_rated(self.rated_parameters(), num_steps=num_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: PackedBatch, batch_idx: int) -> Tensor:  # noqa: ARG002
        draws = ClipNoise(batch, seed=self.seed, purpose="train", step=self.global_step)
        pack = NoisedPack.draw(batch, (batch.video, batch.audio), draws, self.noise_levels)
        losses = self.losses(self.model, batch, pack)
        objective = weighted_objective(losses, self.weights)
        self.log("train/loss", objective.detach(), prog_bar=True, sync_dist=True)
        self.log_losses("train", losses, pack.levels)
        return objective

    def validation_step(self, batch: PackedBatch, batch_idx: int) -> None:  # noqa: ARG002
        """The exported model's losses, with noise and noise levels that are the same at every validation."""
        draws = ClipNoise(batch, seed=self.seed, purpose="validation")
        pack = NoisedPack.draw(batch, (batch.video, batch.audio), draws, self.noise_levels)
        with self.exporting() as model:
            self.log_losses("validation", self.losses(model, batch, pack), pack.levels)

    def step_flops(self, batch: PackedBatch) -> float:
        """Of one training step: a forward pass, and a backward pass of twice its cost."""
        return 3.0 * self.model.forward_flops(batch)

    def log_losses(self, stage: str, losses: Mapping[Modality, ClipSums], levels: Tensor) -> None:
        """Each modality's mean loss, and that of the clips in each quarter of the noise levels."""
        quarters = (levels * NUM_LEVEL_BUCKETS).long().clamp(max=NUM_LEVEL_BUCKETS - 1)
        for modality, sums in losses.items():
            name = f"{stage}/{modality.name.lower()}"
            self._log_mean(name, sums, prog_bar=stage == "train")
            for quarter in range(NUM_LEVEL_BUCKETS):
                low, high = quarter / NUM_LEVEL_BUCKETS, (quarter + 1) / NUM_LEVEL_BUCKETS
                inside = quarters == quarter
                self._log_mean(f"{name}_t{low:.2f}-{high:.2f}", ClipSums(sums.total[inside], sums.count[inside]))

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,  # noqa: ARG002
        gradient_clip_val: float | None = None,  # noqa: ARG002
        gradient_clip_algorithm: str | None = None,  # noqa: ARG002
    ) -> None:
        """Clips at this module's own limit, and logs the norm before it."""
        limit = float("inf") if self.gradient_clip is None else self.gradient_clip
        self.log("train/gradient_norm", torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit))

    def _log_mean(self, name: str, sums: ClipSums, *, prog_bar: bool = False) -> None:
        tokens = int(sums.count.sum())
        if tokens:
            self.log(name, sums.mean().detach(), batch_size=tokens, prog_bar=prog_bar)


class FlowMatchingModule(FlowTraining):
    """Trains a whole transformer.

    Args:
        model: the transformer; its EMA, if any, is what is exported.
        ema_decay: None keeps no EMA.
        noise_levels, optimizer, video_weight, audio_weight, gradient_clip, seed: as in `FlowTraining`.
    """

    def __init__(
        self,
        *,
        model: SandwichTransformer,
        noise_levels: NoiseLevelDistribution,
        optimizer: AdamWRecipe,
        ema_decay: float | None = 0.999,
        video_weight: float = 1.0,
        audio_weight: float = 1.0,
        gradient_clip: float | None = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            noise_levels=noise_levels,
            optimizer=optimizer,
            video_weight=video_weight,
            audio_weight=audio_weight,
            gradient_clip=gradient_clip,
            seed=seed,
        )
        self.model = model
        self.ema = None if ema_decay is None else exponential_moving_average(model, decay=ema_decay)

    @property
    def exported_model(self) -> SandwichTransformer:
        """The weights to use after training: the EMA where there is one."""
        return self.model if self.ema is None else cast(SandwichTransformer, self.ema.module)

    @contextmanager
    def exporting(self) -> Iterator[SandwichTransformer]:
        """`exported_model`, which is there all the time."""
        yield self.exported_model

    def configure_model(self) -> None:
        """Shards model and EMA when the strategy brought a device mesh (FSDP2)."""
        if self.device_mesh is not None:
            shard_layers(self.model, self.device_mesh)
            if self.ema is not None:
                shard_layers(cast(SandwichTransformer, self.ema.module), self.device_mesh)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.update_parameters(self.model)
