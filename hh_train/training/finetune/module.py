"""Fine-tuning of a checkpoint by flow matching: adapters beside frozen weights, or the weights themselves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh

from hh_train.flow.losses import ClipSums
from hh_train.flow.noise_levels import NoiseLevelDistribution
from hh_train.model.checkpoint import load_weights
from hh_train.model.lora import (
    AdaptedNetwork,
    AdapterRecipe,
    AdapterSet,
    adapter_set,
    attach_adapter,
    initialize_adapter,
    without_adapters,
)
from hh_train.model.quantized.formats import PlainFormat, WeightFormat
from hh_train.model.transformer import SandwichTransformer
from hh_train.training.finetune.anchor import TeacherCheckpoint, shift_losses
from hh_train.training.finetune.average import TrainedAverage
from hh_train.training.finetune.base import BaseModel
from hh_train.training.finetune.rates import LayerwiseRates
from hh_train.training.flow_matching import NoisedPack
from hh_train.training.flow_module import FlowTraining
from hh_train.training.optim import AdamWRecipe, RatedParameters
from hh_train.training.sharding import shard_layers
from hh_train.types import Modality, PackedBatch

ADAPTER = "finetuned"
"""The adapter's name in the model."""
BASE_KEY = "base_fingerprint"
"""In checkpoints."""
FLOAT32 = PlainFormat(dtype="float32")


class FineTuningModule(FlowTraining):
    """Starts from a checkpoint, whose weights are read when training begins: sharded, each process reads its own.

    Its own checkpoints hold what is trained and nothing of what is frozen, except where the weights are sharded.

    Args:
        base: the checkpoint.
        adapters: what is trained beside the frozen weights; None trains these.
        frozen: how adapters keep the matrix products of the base.
        offload: whether these lie in the CPU's memory.
        rates: without adapters: shares of the learning rate by part, and what is frozen; None trains all.
        anchor: for a distilled student as the base: its teacher, with which the student's few steps are kept
            (`shift_losses`).
        ema_decay: of the average of what is trained, which is exported; None keeps none.
        noise_levels, optimizer, video_weight, audio_weight, gradient_clip, seed: as in `FlowTraining`.

    Raises ValueError for settings that do not go together.
    """

    def __init__(
        self,
        *,
        base: BaseModel,
        adapters: AdapterRecipe | None,
        frozen: WeightFormat,
        noise_levels: NoiseLevelDistribution,
        optimizer: AdamWRecipe,
        offload: bool = False,
        rates: LayerwiseRates | None = None,
        anchor: TeacherCheckpoint | None = None,
        ema_decay: float | None = None,
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
        _require_one_way(adapters, rates, anchor, frozen, offload=offload)
        self.base, self.adapters, self.frozen, self.offload = base, adapters, frozen, offload
        self.rates, self.anchor, self.ema_decay = rates, anchor, ema_decay
        self.strict_loading = False  # Lightning's; `on_load_checkpoint` looks for what must be there
        self.average: TrainedAverage | None = None
        self._rated: Sequence[RatedParameters] = ()
        self._teacher: list[SandwichTransformer] = []  # in a list: no submodule, out of checkpoints

    def configure_model(self) -> None:
        """Reads the base and builds in what is trained; once, however often it is called.

        Raises ValueError for a base that is not there, does not fit, or cannot be kept as wanted.
        """
        if hasattr(self, "model"):
            return
        if self.device_mesh is not None:
            self.model = self._sharded(self.device_mesh)
        elif self.adapters is not None:
            device = self.trainer.strategy.root_device if self._trainer is not None else torch.device("cpu")
            self.model = self.base.load_frozen(self.frozen, device=device, offload=self.offload)
            attach_adapter(self.model, ADAPTER, self.adapters, seed=self.seed)
        else:
            self.model = self.base.load()
        if self.rates is not None:
            self._rated = self.rates.apply(self.model)
        if self.ema_decay is not None:
            self.average = TrainedAverage(self.model, decay=self.ema_decay)
        if self.anchor is not None:
            self._teacher = [self.anchor.load(self.model.config)]

    @property
    def adapter(self) -> AdapterSet:
        """The adapter, as part of the model."""
        return adapter_set(self.model, ADAPTER)

    @contextmanager
    def exporting(self) -> Iterator[SandwichTransformer]:
        """The model with its adapter, inside with averaged weights."""
        with nullcontext() if self.average is None else self.average.in_place():
            yield self.model

    def rated_parameters(self) -> Sequence[RatedParameters]:
        return self._rated or super().rated_parameters()

    def losses(self, model: SandwichTransformer, batch: PackedBatch, pack: NoisedPack) -> dict[Modality, ClipSums]:
        """Flow matching, or for a student the shift that its teacher would make."""
        if not self._teacher:
            return super().losses(model, batch, pack)
        student = AdaptedNetwork(model, {})
        return shift_losses(model, student, self._teacher[0].to(self.device), batch, pack)

    def step_flops(self, batch: PackedBatch) -> float:
        """Of one training step. Adapters need no gradients of the frozen weights."""
        passes = (2.0 if self.adapters is not None else 3.0) + 2.0 * len(self._teacher)
        return passes * self.model.forward_flops(batch)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leaves the frozen weights out, and says whose they are."""
        checkpoint[BASE_KEY] = self.base.fingerprint
        if self.device_mesh is None:
            kept = self._names_kept()
            checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in kept}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises ValueError for a checkpoint of a run from another base, or in which other parameters were trained."""
        if checkpoint.get(BASE_KEY, self.base.fingerprint) != self.base.fingerprint:
            raise ValueError(
                f"the checkpoint to resume from is of a run on another base than {self.base.folder}: choose another "
                "output, or remove the checkpoints"
            )
        kept, stored = self._names_kept(), checkpoint.get("state_dict")
        if stored is None or self.device_mesh is not None:
            return
        if missing := sorted(kept - stored.keys()):
            raise ValueError(
                f"the checkpoint to resume from lacks {len(missing)} of the weights that are trained here, such as "
                f"{missing[0]}: it is of a run with other adapters or frozen parts. Choose another output"
            )

    def _names_kept(self) -> set[str]:
        """Of weights that are trained, their average, and what an adapter has read off the base."""
        trained = {f"model.{name}" for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        beside = {name for name in self.state_dict() if name.startswith("average.") or name.endswith(".base_norm")}
        return trained | beside

    def _sharded(self, mesh: DeviceMesh) -> SandwichTransformer:
        """Raises ValueError for what cannot be sharded."""
        if self.anchor is not None or self.offload:
            raise ValueError(
                "a teacher beside the student, and offloaded weights, are not sharded: set trainer=ddp, or leave "
                "module.anchor and module.offload out"
            )
        model = self.base.unfilled(FLOAT32 if self.adapters is None else self.frozen)
        if self.adapters is not None:
            attach_adapter(model, ADAPTER, self.adapters)
        shard_layers(model, mesh)
        model.to_empty(device=self.trainer.strategy.root_device)
        with without_adapters(model):
            load_weights(model, self.base.folder)
        if self.adapters is not None:
            initialize_adapter(model, ADAPTER, seed=self.seed)
        return model


def _require_one_way(
    adapters: AdapterRecipe | None,
    rates: LayerwiseRates | None,
    anchor: TeacherCheckpoint | None,
    frozen: WeightFormat,
    *,
    offload: bool,
) -> None:
    if adapters is not None and rates is not None:
        raise ValueError("got adapters and rates: adapters freeze the whole model, rates choose parts of it to train")
    if adapters is None and (offload or frozen != FLOAT32):
        raise ValueError(
            f"got quantization={frozen.name} and offload={offload} without adapters: weights that are trained are "
            "float32 and lie on the device; set module.adapters, or quantization=float32 module.offload=false"
        )
    if adapters is None and anchor is not None:
        raise ValueError(
            "got an anchor without adapters: it needs the student as it was, which is the model without its adapters"
        )
