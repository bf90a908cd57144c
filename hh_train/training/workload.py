"""What is to run on which devices, before anything is built: bytes of the networks' states, operations of a step."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal

import torch

from hh_train.model.config import ModelConfig
from hh_train.model.recompute import ActivationCheckpointing
from hh_train.model.size import forward_flops, layer_parameters, parameter_counts, product_parameters
from hh_train.training.callbacks import matmul_teraflops
from hh_train.training.dry_run import ModelFactory
from hh_train.types import ClipLayout, Modality

Kind = Literal["pretrain", "distill", "inference"]
_FP32, _BF16 = 4, 2


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """A device, by what its maker publishes.

    Args:
        memory_gib: in GiB, which is what makers mean by GB here.
        teraflops: peak of dense matrix products in bf16 with sums in fp32.
        is_cpu: whether attention runs as on CPUs (bf16 scores of short clips written out) instead of in flash kernels.
    """

    name: str
    memory_gib: float
    teraflops: float
    is_cpu: bool = False

    @classmethod
    def this_cpu(cls) -> Accelerator:
        """This machine: its physical memory, and its measured rate of bf16 matrix products."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        rate = matmul_teraflops(torch.device("cpu"), torch.bfloat16)
        name = f"this CPU ({torch.get_num_threads()} threads)"
        return cls(name=name, memory_gib=memory / 2**30, teraflops=rate, is_cpu=True)


@dataclass(frozen=True, kw_only=True)
class StateBytes:
    """What lasts from step to step."""

    weights: float
    gradients: float
    optimizer: float
    ema: float
    frozen: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.ema + self.frozen

    def shared_by(self, num_shards: int) -> StateBytes:
        return StateBytes(**{field.name: getattr(self, field.name) / num_shards for field in fields(self)})


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Training or sampling of a model.

    Args:
        model: `SandwichTransformer` with its arguments bound, not built (`_partial_: true`).
        kind: pretrain trains one network, distill a student and a critic beside a frozen teacher, inference none.
        ema: whether an average of the (student's) weights is kept.
        frozen_dtype: of the teacher's, or in inference the model's, matrix products; all else stays fp32.
        guided: whether the teacher, or in inference the model, runs with and without the prompt.
        num_steps: of the sampler, in distill and inference.
        critic_steps_per_student_step: of distill.
    """

    model: ModelFactory
    kind: Kind = "pretrain"
    ema: bool = True
    frozen_dtype: Literal["float32", "bfloat16"] = "float32"
    guided: bool = True
    num_steps: int = 8
    critic_steps_per_student_step: int = 5

    @cached_property
    def config(self) -> ModelConfig:
        with torch.device("meta"):
            return self.model(compile_layers=False).config

    @property
    def activation_checkpointing(self) -> ActivationCheckpointing:
        """As the model has it."""
        keywords = getattr(self.model, "keywords", {})
        kind: ActivationCheckpointing = keywords.get("activation_checkpointing", "none")
        return kind

    @property
    def num_trained(self) -> int:
        """Networks with gradients."""
        return {"pretrain": 1, "distill": 2, "inference": 0}[self.kind]

    def state_bytes(self) -> StateBytes:
        """fp32 weights, gradients and two Adam moments of each trained network: 16 bytes a parameter."""
        parameters = parameter_counts(self.config).total
        trained = float(_FP32 * parameters * self.num_trained)
        return StateBytes(
            weights=trained,
            gradients=trained,
            optimizer=2 * trained,
            ema=float(_FP32 * parameters if self.ema and self.num_trained else 0),
            frozen=0.0 if self.kind == "pretrain" else float(self._frozen_bytes()),
        )

    def layer_bytes(self) -> list[int]:
        """Of each layer's weights in fp32."""
        return [_FP32 * layer_parameters(self.config, index) for index in range(self.config.num_layers)]

    def step_flops(self, layouts: Sequence[ClipLayout]) -> float:
        """Operations of a step on these clips, without what is recomputed: of an optimizer step, the mean over critic
        and student steps in distill, of a whole sample in inference.
        """
        forward, passes = float(forward_flops(self.config, layouts)), 2 if self.guided else 1
        if self.kind == "pretrain":
            return 3 * forward
        if self.kind == "inference":
            return self.num_steps * passes * forward
        rollout, critic = (self.num_steps + 1) / 2, 3  # every exit step is as likely as any other
        student = 2 + passes + 1  # its backward pass, the teacher, the critic
        return (rollout + critic + student / self.critic_steps_per_student_step) * forward

    def recomputed_flops(self, layouts: Sequence[ClipLayout], kind: ActivationCheckpointing) -> float:
        """Operations that checkpointing adds: selective recomputes no matrix products."""
        if kind != "full":
            return 0.0
        per_step = {"pretrain": 1.0, "distill": 1 + 1 / self.critic_steps_per_student_step, "inference": 0.0}
        return per_step[self.kind] * forward_flops(self.config, layouts)

    def _frozen_bytes(self) -> int:
        total = parameter_counts(self.config).total
        if self.frozen_dtype == "float32":
            return _FP32 * total
        products = sum(
            product_parameters(self.config, index) * (len(Modality) if index in self.config.mm_layers else 1)
            for index in range(self.config.num_layers)
        )
        return _FP32 * (total - products) + _BF16 * products
