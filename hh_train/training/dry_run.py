"""The memory of a pass, found by walking through it on tensors without storage: every operation of the code itself is
seen, none is computed, nothing is allocated.

What is not seen: buffers inside kernels, and what compiling saves (a compiled layer keeps less than this says).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.function import once_differentiable
from torch.nn import Parameter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hh_train.model.attention import AttentionPattern
from hh_train.model.rope import coordinates
from hh_train.model.transformer import SandwichTransformer
from hh_train.types import ClipLayout, PackedBatch, Prediction

ModelFactory = Callable[..., SandwichTransformer]
"""`SandwichTransformer` with its arguments bound; takes further ones by name."""


@dataclass(frozen=True, kw_only=True)
class PassBytes:
    """Bytes beside the weights and the batch."""

    forward_peak: int
    kept: int
    """From the forward to the backward pass."""
    backward_peak: int
    """With what is still kept, and with the gradients so far."""


class FusedAttention:
    """Stands for flash kernels: they keep queries, keys, values, the output and its log-sum-exp, and no scores."""

    def __call__(
        self,
        query: Float[Tensor, "N Hq D"],
        key: Float[Tensor, "N Hk D"],
        value: Float[Tensor, "N Hk D"],
        pattern: AttentionPattern,  # noqa: ARG002
    ) -> Float[Tensor, "N Hq D"]:
        attended: Tensor = _Fused.apply(query, key, value)  # type: ignore[no-untyped-call]
        return attended


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output, log_sum_exp = torch.empty_like(query), query.new_empty(query.shape[:2], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, log_sum_exp)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG004
        query, key, value, _, _ = ctx.saved_tensors
        in_fp32 = torch.empty_like(query, dtype=torch.float32)  # the sum over blocks of keys
        per_query_head = [torch.empty_like(query) for _ in (key, value)]  # before heads of a group are summed
        gradients = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        del in_fp32, per_query_head
        return gradients


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make, until they are gone. `known` tensors count nothing."""

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live: int = 0
        self.peak: int = 0
        self._known = [tensor.untyped_storage() for tensor in known]  # held, so that no new one takes their place
        self._seen = {storage._cdata for storage in self._known}

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return result

    def restart_peak(self) -> None:
        self.peak = self.live

    def _see(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata in self._seen:
            return
        self._seen.add(storage._cdata)
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


def training_pass(
    model: ModelFactory, layouts: Sequence[ClipLayout], *, keeps_gradients: bool = True, **arguments: Any
) -> PassBytes:
    """A forward and a backward pass over a pack of these clips.

    Without `keeps_gradients` those of a layer are gone when the next one's come, as where they are handed on to shards.
    `arguments` override those of the model.
    """
    network, batch, fake = _prepare(model, layouts, arguments)
    with fake:
        if not keeps_gradients:
            _drop_gradients_layer_by_layer(network)
        live = _watch(network, batch)
        with live:
            loss = _loss(network(batch))
            forward_peak, kept = live.peak, live.live
            live.restart_peak()
            loss.backward()
    return PassBytes(forward_peak=forward_peak, kept=kept, backward_peak=live.peak)


def evaluation_peak(model: ModelFactory, layouts: Sequence[ClipLayout], **arguments: Any) -> int:
    """The most that a forward pass without gradients holds beside the weights and the batch."""
    network, batch, fake = _prepare(model, layouts, arguments)
    with fake:
        live = _watch(network.eval(), batch)
        with torch.no_grad(), live:
            network(batch)
    return live.peak


def _prepare(
    model: ModelFactory, layouts: Sequence[ClipLayout], arguments: dict[str, Any]
) -> tuple[SandwichTransformer, PackedBatch, FakeTensorMode]:
    """On a CPU that is not there, in training mode."""
    with torch.device("meta"):
        network = model(**{**arguments, "compile_layers": False})
    coordinates(tuple(layouts), network.config.coordinates)  # cached: the cache must not get tensors without storage
    with FakeTensorMode(allow_non_fake_inputs=True) as fake:
        network.to_empty(device="cpu")
        return network, _empty_batch(network, tuple(layouts)), fake


def _empty_batch(network: SandwichTransformer, layouts: tuple[ClipLayout, ...]) -> PackedBatch:
    config = network.config
    video, audio = sum(layout.num_video for layout in layouts), sum(layout.audio for layout in layouts)
    text = sum(layout.text for layout in layouts)
    return PackedBatch(
        video=torch.empty(video, config.video_in_channels),
        audio=torch.empty(audio, config.audio_in_channels),
        text=torch.empty(text, config.text_in_channels),
        video_is_given=torch.empty(video, dtype=torch.bool),
        audio_is_given=torch.empty(audio, dtype=torch.bool),
        video_clip=torch.empty(video, dtype=torch.long),
        audio_clip=torch.empty(audio, dtype=torch.long),
        sequence_index=torch.empty(video + audio + text, dtype=torch.long),
        group_index=torch.empty(video + audio + text, dtype=torch.long),
        layouts=layouts,
    )


def _watch(network: SandwichTransformer, batch: PackedBatch) -> LiveBytes:
    given = [value for value in vars(batch).values() if isinstance(value, Tensor)]
    return LiveBytes(known=[*network.parameters(), *network.buffers(), *given])


def _loss(prediction: Prediction) -> Tensor:
    return prediction.video.square().mean() + prediction.audio.square().mean()


def _drop_gradients_layer_by_layer(network: SandwichTransformer) -> None:
    latest: list[Parameter] = []

    def drop_earlier(own: set[Parameter], parameter: Parameter) -> None:
        for earlier in () if own.issuperset(latest) else tuple(latest):
            earlier.grad = None
            latest.remove(earlier)
        latest.append(parameter)

    for layer in network.layers:
        own = {parameter for parameter in layer.parameters() if parameter.requires_grad}
        for parameter in own:
            parameter.register_post_accumulate_grad_hook(partial(drop_earlier, own))
