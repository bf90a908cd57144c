"""What is to run on which devices, before anything is built: bytes of the networks' states, operations of a step."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal, cast

import torch

from hh_train.model.config import ModelConfig
from hh_train.model.lora.attach import AdapterSet, attach_cells
from hh_train.model.lora.layers import AdaptedLinear, LinearAdapter
from hh_train.model.lora.targets import AdapterRecipe, cell_rows
from hh_train.model.quantized.formats import PlainFormat, WeightFormat
from hh_train.model.quantized.freeze import quantize_frozen
from hh_train.model.quantized.linear import FrozenLinear
from hh_train.model.recompute import ActivationCheckpointing
from hh_train.model.size import forward_flops
from hh_train.model.transformer import SandwichTransformer
from hh_train.training.callbacks import matmul_teraflops
from hh_train.training.dmd2.adapters import LowRank, with_adapters
from hh_train.training.dry_run import ModelFactory
from hh_train.training.finetune.rates import LayerwiseRates
from hh_train.training.optim import Moments, moment_bytes
from hh_train.types import ClipLayout

Kind = Literal["pretrain", "finetune", "distill", "inference"]
_FP32 = 4


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
        kind: pretrain and finetune train one network, distill a student and a critic beside a frozen teacher, inference
            none.
        ema: whether an average of the (student's) trained weights is kept.
        moments: of the optimizer; see `AdamWRecipe`.
        frozen: how matrix products are kept that are not trained: under the adapters of finetune, the teacher's of
            distill, the model's of inference. All else stays fp32.
        offload: whether these lie in the CPU's memory.
        adapters: of finetune: what is trained beside the frozen model; None trains the model itself.
        rates: of finetune without adapters: what is frozen (in fp32); None trains all.
        guided: whether the teacher, or in inference the model, runs with and without the prompt.
        num_steps: of the sampler, in distill and inference.
        critic_steps_per_student_step: of distill.
        adapter_rank: of distill where student and critic are adapters of the one teacher; None copies it.

    Raises ValueError for settings of another kind of run.
    """

    model: ModelFactory
    kind: Kind = "pretrain"
    ema: bool = True
    moments: Moments = "float32"
    frozen: WeightFormat = field(default_factory=lambda: PlainFormat(dtype="float32"))
    offload: bool = False
    adapters: AdapterRecipe | None = None
    rates: LayerwiseRates | None = None
    guided: bool = True
    num_steps: int = 8
    critic_steps_per_student_step: int = 5
    adapter_rank: int | None = None

    def __post_init__(self) -> None:
        if self.adapter_rank is not None and (self.kind != "distill" or self.adapter_rank < 1):
            raise ValueError(f"got adapter_rank {self.adapter_rank} for {self.kind}, wanted 1 or more for distill")
        if self.adapter_rank is not None and not isinstance(self.frozen, PlainFormat):
            raise ValueError(f"student and critic as adapters keep the teacher in float32 or bfloat16: {self.frozen}")
        if self.kind != "finetune" and not (self.adapters is None and self.rates is None):
            raise ValueError(f"adapters and rates are of finetune, got them for {self.kind}")
        if self.adapters is not None and self.rates is not None:
            raise ValueError("got adapters and rates: adapters freeze the whole model, rates choose parts of it")
        if self.offload and not self.keeps_frozen:
            raise ValueError(f"got offload, but {self.kind} keeps no frozen network: all of it is trained")

    def __hash__(self) -> int:
        return hash((id(self.model), self.kind, self.frozen, self.adapter_rank))

    @cached_property
    def config(self) -> ModelConfig:
        return self._on_meta(self.model).config

    @property
    def activation_checkpointing(self) -> ActivationCheckpointing:
        """As the model has it."""
        keywords = getattr(self.model, "keywords", {})
        kind: ActivationCheckpointing = keywords.get("activation_checkpointing", "none")
        return kind

    def changed(self, *, frozen: WeightFormat, offload: bool, moments: Moments) -> Workload:
        """With other settings; itself when they are its own, since its passes are remembered."""
        if (frozen, offload, moments) == (self.frozen, self.offload, self.moments):
            return self
        return replace(self, frozen=frozen, offload=offload, moments=moments)

    @property
    def num_trained(self) -> int:
        """Networks with gradients."""
        return {"pretrain": 1, "finetune": 1, "distill": 2, "inference": 0}[self.kind]

    @property
    def keeps_frozen(self) -> bool:
        """Whether there is a network whose matrix products are all frozen."""
        return self.kind in ("distill", "inference") or self.adapters is not None

    @property
    def is_adapted(self) -> bool:
        """Whether what is trained are adapters."""
        return self.adapters is not None or self.adapter_rank is not None

    @cached_property
    def trained_parameters(self) -> int:
        """Of each network with gradients."""
        return sum(self._trained_sizes)

    @property
    def trained_model(self) -> ModelFactory:
        """Builds what a training pass goes through."""
        if self.adapters is not None:
            return self._finetuned_adapters
        if self.adapter_rank is not None:
            return self._distilled_adapters
        return self.model if self.rates is None else self._partly_frozen

    @property
    def frozen_model(self) -> ModelFactory:
        """Builds what is only evaluated."""
        return self._quantized if self.keeps_frozen and not self.is_adapted else self.trained_model

    def state_bytes(self) -> StateBytes:
        """fp32 weights and gradients of each trained network, and its moments: 16 bytes a parameter, or 10."""
        trained = float(_FP32 * self.trained_parameters * self.num_trained)
        products, rest = self._frozen_bytes
        return StateBytes(
            weights=trained,
            gradients=trained,
            optimizer=float(moment_bytes(self._trained_sizes, self.moments) * self.num_trained),
            ema=float(_FP32 * self.trained_parameters if self.ema and self.num_trained else 0),
            frozen=float(rest if self.offload else products + rest),
        )

    @property
    def offloaded_bytes(self) -> int:
        """In the CPU's memory."""
        return self._frozen_bytes[0] if self.offload else 0

    @cached_property
    def fetched_bytes(self) -> int:
        """What is copied from the CPU's memory for a matrix product, at most."""
        if not self.offload:
            return 0
        products = self._frozen_products(self._on_meta(self._quantized))
        return max(sum(part.nbytes for part in product.parts.values()) for product in products)

    def layer_bytes(self) -> list[int]:
        """Of each layer's weights, as they are gathered where they are sharded."""
        return [sum(p.nbytes for p in layer.parameters()) for layer in self._sharded_model.layers]

    def layer_gradient_bytes(self) -> list[int]:
        """Of each layer's gradients in fp32."""
        layers = self._sharded_model.layers
        return [sum(_FP32 * p.numel() for p in layer.parameters() if p.requires_grad) for layer in layers]

    def step_flops(self, layouts: Sequence[ClipLayout]) -> float:
        """Operations of a step on these clips, without what is recomputed: of an optimizer step, the mean over critic
        and student steps in distill, of a whole sample in inference.

        Adapters are trained without gradients of the frozen weights; their own few operations are left out.
        """
        forward, passes = float(forward_flops(self.config, layouts)), 2 if self.guided else 1
        if self.kind in ("pretrain", "finetune"):
            return (2 if self.adapters is not None else 3) * forward
        if self.kind == "inference":
            return self.num_steps * passes * forward
        rollout, critic = (self.num_steps + 1) / 2, 3  # every exit step is as likely as any other
        student = 2 + passes + 1  # its backward pass, the teacher, the critic
        return (rollout + critic + student / self.critic_steps_per_student_step) * forward

    def recomputed_flops(self, layouts: Sequence[ClipLayout], kind: ActivationCheckpointing) -> float:
        """Operations that checkpointing adds: selective recomputes no matrix products."""
        if kind != "full":
            return 0.0
        distilled = 1 + 1 / self.critic_steps_per_student_step
        per_step: Mapping[Kind, float] = {"pretrain": 1.0, "finetune": 1.0, "distill": distilled, "inference": 0.0}
        return per_step[self.kind] * forward_flops(self.config, layouts)

    @cached_property
    def _sharded_model(self) -> SandwichTransformer:
        return self._on_meta(self.trained_model if self.num_trained else self.frozen_model)

    @staticmethod
    def _on_meta(model: ModelFactory) -> SandwichTransformer:
        with torch.device("meta"):
            return model(compile_layers=False)

    @staticmethod
    def _frozen_products(model: SandwichTransformer) -> Iterator[FrozenLinear]:
        return (module for module in model.modules() if isinstance(module, FrozenLinear))

    @cached_property
    def _trained_sizes(self) -> list[int]:
        """Numbers in each parameter of a network with gradients."""
        if not self.num_trained:
            return []
        named = self._on_meta(self.trained_model).named_parameters()
        trained = {name: parameter.numel() for name, parameter in named if parameter.requires_grad}
        if self.adapter_rank is not None:  # built in are both networks' adapters
            trained = {name: size for name, size in trained.items() if ".student." in name}
        return list(trained.values())

    @cached_property
    def _frozen_bytes(self) -> tuple[int, int]:
        """Of matrix products, and of all else that is frozen."""
        if self.kind == "pretrain":
            return 0, 0
        model = self._on_meta(self._quantized if self.keeps_frozen else self.trained_model)
        products = sum(part.nbytes for module in self._frozen_products(model) for part in module.parts.values())
        frozen = sum(p.nbytes for p in model.parameters() if self.keeps_frozen or not p.requires_grad)
        return products, frozen - products

    def _quantized(self, **arguments: Any) -> SandwichTransformer:
        return quantize_frozen(self.model(**arguments), self.frozen)

    def _partly_frozen(self, **arguments: Any) -> SandwichTransformer:
        model = self.model(**arguments)
        cast(LayerwiseRates, self.rates).apply(model)
        return model

    def _finetuned_adapters(self, **arguments: Any) -> SandwichTransformer:
        model, recipe = self._quantized(**arguments), cast(AdapterRecipe, self.adapters)
        attached = attach_cells(model, "trained", recipe.cells(model.config), decomposed=False)
        if recipe.decomposed:  # rows' lengths are read from weights, and here there are none
            _decompose(model, attached)
        return model

    def _distilled_adapters(self, **arguments: Any) -> SandwichTransformer:
        settings = LowRank(rank=cast(int, self.adapter_rank))
        dtype: torch.dtype = getattr(torch, cast(PlainFormat, self.frozen).dtype)
        return with_adapters(self.model(**arguments), settings, frozen_dtype=dtype)


def _decompose(model: SandwichTransformer, attached: AdapterSet) -> None:
    """Puts DoRA's adapters, whose numbers nobody reads, in the place of plain ones."""
    for name, plain in attached.items():
        linear = cast(AdaptedLinear, model.get_submodule(name))
        linear.adapters[attached.name] = LinearAdapter(
            shape=plain.shape,
            cells=plain.cells,
            rows={cell: cell_rows(model.config, cell) for cell in plain.cells},
            compute_dtype=plain.compute_dtype,
            decomposed=True,
        )
