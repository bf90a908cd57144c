"""The memory of a device during a step: what lasts, what is kept for the backward pass, and the peak."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from hh_train.model.attention import AttentionBackend, PerClipAttention
from hh_train.model.recompute import ActivationCheckpointing
from hh_train.training.dry_run import FusedAttention, PassBytes, evaluation_peak, training_pass
from hh_train.training.workload import StateBytes, Workload
from hh_train.types import ClipLayout

Strategy = Literal["ddp", "fsdp"]


@dataclass(frozen=True, kw_only=True)
class GatheredBytes:
    """What FSDP2 holds beside shards and activations, at most: whole layers, their gradients, and buffers.

    Args:
        layers: bytes of each layer's weights, in order.
        gradients: bytes of each layer's gradients; None when there are as many.
    """

    layers: Sequence[int]
    gradients: Sequence[int] | None = None

    @property
    def forward(self) -> int:
        """A layer in use, the next one, and the buffer that it is gathered in."""
        return max((own + 2 * following for own, following in pairwise((*self.layers, 0))), default=0)

    @property
    def in_backward(self) -> int:
        """A layer, the one before, and the buffer that the next one's gradients are reduced in. Its own gradients come
        while its activations go.
        """
        following = (*(self.layers if self.gradients is None else self.gradients)[1:], 0)
        windows = zip((0, *self.layers), self.layers, following, strict=False)
        return max((sum(window) for window in windows), default=0)

    @property
    def after_backward(self) -> int:
        """A layer, its gradients, their buffer, and the layer before: its activations are gone by then."""
        gradients = self.layers if self.gradients is None else self.gradients
        windows = zip((0, *self.layers), self.layers, gradients, strict=False)
        return max((before + own + 2 * gradient for before, own, gradient in windows), default=0)


@dataclass(frozen=True, kw_only=True)
class DeviceBytes:
    """Of one device. The peak is no sum: while gradients come, activations go."""

    state: StateBytes
    """Its share, where the state is sharded."""
    communication: float
    """Buckets of gradients (ddp), or gathered layers and their gradients (fsdp)."""
    activations: float
    """Kept from the forward to the backward pass."""
    peak: float


@dataclass(frozen=True, kw_only=True)
class MemoryModel:
    """Predicts a device's bytes. Passes are walked through on tensors without storage (hh_train.training.dry_run).

    Args:
        workload: what runs.
        on_cpu: which attention to assume: the model's own on CPUs, which writes out bf16 scores of short clips; else
            flash kernels.
    """

    workload: Workload
    on_cpu: bool = False

    def device_bytes(
        self, clips: Sequence[ClipLayout], *, strategy: Strategy, num_devices: int, kind: ActivationCheckpointing
    ) -> DeviceBytes:
        """With these clips on each device. Gradients of the last step last until the next backward pass.

        Raises ValueError for sharded adapters of distill and sharded offloaded weights, which there are none of.
        """
        if strategy == "fsdp" and num_devices > 1:
            if self.workload.adapter_rank is not None:
                raise ValueError("adapters on a shared teacher are not sharded: plan with strategy=ddp")
            if self.workload.offload:
                raise ValueError("offloaded weights are not sharded: plan with strategy=ddp, or without offload")
        workload, layouts = self.workload, tuple(clips)
        num_shards = num_devices if strategy == "fsdp" else 1
        state = workload.state_bytes().shared_by(num_shards)
        is_gathered = num_shards > 1
        gathered = GatheredBytes(
            layers=workload.layer_bytes() if is_gathered else (),
            gradients=workload.layer_gradient_bytes() if is_gathered else (),
        )
        if workload.kind == "inference":
            peak = state.total + self._evaluation(layouts) + gathered.forward + workload.fetched_bytes
            return DeviceBytes(state=state, communication=float(gathered.forward), activations=0.0, peak=peak)
        passes = self._training(layouts, kind, num_shards)
        buckets = state.gradients if strategy == "ddp" and num_devices > 1 else 0.0
        held = passes.forward_peak
        if workload.kind == "distill":  # the teacher judges the student's sample before the backward pass
            held = max(held, passes.kept + self._evaluation(layouts))
        own_gradients = state.gradients / workload.num_trained
        backward = max(passes.backward_peak + gathered.in_backward, passes.kept + gathered.after_backward)
        return DeviceBytes(
            state=state,
            communication=buckets + max(gathered.in_backward, gathered.after_backward),
            activations=float(passes.kept),
            peak=state.total
            + buckets
            + workload.fetched_bytes
            + max(held + gathered.forward, backward - own_gradients),
        )

    @property
    def attention(self) -> AttentionBackend:
        return PerClipAttention() if self.on_cpu else FusedAttention()

    def _training(self, layouts: tuple[ClipLayout, ...], kind: ActivationCheckpointing, num_shards: int) -> PassBytes:
        """The backward peak with sharded gradients lies below the line between those with all of them and with none."""
        whole = _training_pass(self.workload, layouts, kind, True, self.on_cpu)
        if num_shards == 1:
            return whole
        none = _training_pass(self.workload, layouts, kind, False, self.on_cpu)
        of_gradients = (whole.backward_peak - none.backward_peak) // num_shards
        return replace(none, backward_peak=none.backward_peak + of_gradients)

    def _evaluation(self, layouts: tuple[ClipLayout, ...]) -> int:
        return _evaluation_peak(self.workload, layouts * (2 if self.workload.guided else 1), self.on_cpu)


@lru_cache(maxsize=64)
def _training_pass(
    workload: Workload,
    layouts: tuple[ClipLayout, ...],
    kind: ActivationCheckpointing,
    keeps_gradients: bool,
    on_cpu: bool,
) -> PassBytes:
    attention = MemoryModel(workload=workload, on_cpu=on_cpu).attention
    return training_pass(
        workload.trained_model,
        layouts,
        keeps_gradients=keeps_gradients,
        attention=attention,
        activation_checkpointing=kind,
    )


@lru_cache(maxsize=64)
def _evaluation_peak(workload: Workload, layouts: tuple[ClipLayout, ...], on_cpu: bool) -> int:
    attention = MemoryModel(workload=workload, on_cpu=on_cpu).attention
    return evaluation_peak(workload.frozen_model, layouts, attention=attention)
