"""One layer of the sandwich transformer: pre-normed gated attention and a clamped MLP on an fp32 residual stream.

Layers at both ends of the stack have weights per modality and read tokens grouped by modality; the middle layers share
their weights and read tokens in sequence order, so that nothing is permuted there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hh_train.model.activation import GELU7, SwiGLU7
from hh_train.model.attention import AttentionBackend, AttentionPattern
from hh_train.model.config import ModelConfig
from hh_train.model.modality import ModalityLinear, ModalityRMSNorm
from hh_train.model.recompute import ActivationCheckpointing, recomputed, recomputed_between_products
from hh_train.model.rope import RotaryTable, rotate

T = TypeVar("T")


@dataclass(frozen=True)
class SequenceContext:
    """What every layer needs to know of the pack at hand."""

    rotary: RotaryTable
    sequence_index: Int[Tensor, " N"]
    group_index: Int[Tensor, " N"]
    modality_counts: tuple[int, int, int]
    full_pattern: AttentionPattern
    local_pattern: AttentionPattern
    attend: AttentionBackend


class Attention(nn.Module):
    """Packed projection rows [q | k | v | gate], q and k normed per head, one gate per head."""

    def __init__(self, config: ModelConfig, *, per_modality: bool, compute_dtype: torch.dtype) -> None:
        super().__init__()
        self.num_heads, self.head_dim = config.num_heads, config.head_dim
        self.key_value_size = config.num_query_groups * config.head_dim
        self.compute_dtype = compute_dtype
        self.pre_norm = ModalityRMSNorm(size=config.hidden_size, per_modality=per_modality)
        self.linear_qkv = ModalityLinear(
            in_features=config.hidden_size,
            out_features=config.hidden_size + 2 * self.key_value_size + config.num_heads,
            per_modality=per_modality,
            compute_dtype=compute_dtype,
        )
        self.q_norm = ModalityRMSNorm(size=config.head_dim, per_modality=per_modality)
        self.k_norm = ModalityRMSNorm(size=config.head_dim, per_modality=per_modality)
        self.linear_proj = ModalityLinear(
            in_features=config.hidden_size,
            out_features=config.hidden_size,
            per_modality=per_modality,
            compute_dtype=compute_dtype,
        )

    def project(self, x: Tensor, counts: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys and values [N heads D], normed but not yet rotated, and gate logits [N Hq], all fp32."""
        packed = self.linear_qkv(self.pre_norm(x, counts), counts).float()
        query_size = self.num_heads * self.head_dim
        q, k, v, gate = packed.split([query_size, self.key_value_size, self.key_value_size, self.num_heads], dim=-1)
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in (q, k, v))
        return self.q_norm(q, counts), self.k_norm(k, counts), v, gate

    def combine(self, attended: Tensor, gate: Tensor, counts: tuple[int, int, int]) -> Tensor:
        """The gated and projected output [N hidden] in fp32."""
        gated = attended.float() * torch.sigmoid(gate)[..., None]
        projected: Tensor = self.linear_proj(gated.flatten(1), counts)
        return projected.float()


class MLP(nn.Module):
    """Up projection, clamped activation, down projection."""

    def __init__(self, config: ModelConfig, *, gelu7: bool, per_modality: bool, compute_dtype: torch.dtype) -> None:
        super().__init__()
        inner = config.gelu7_size if gelu7 else config.swiglu7_size
        self.pre_norm = ModalityRMSNorm(size=config.hidden_size, per_modality=per_modality)
        self.up_gate_proj = ModalityLinear(
            in_features=config.hidden_size,
            out_features=inner if gelu7 else 2 * inner,
            per_modality=per_modality,
            compute_dtype=compute_dtype,
        )
        self.activation = GELU7() if gelu7 else SwiGLU7()
        self.down_proj = ModalityLinear(
            in_features=inner, out_features=config.hidden_size, per_modality=per_modality, compute_dtype=compute_dtype
        )

    def forward(self, x: Tensor, counts: tuple[int, int, int]) -> Tensor:
        up = self.up_gate_proj(self.pre_norm(x, counts), counts)
        down: Tensor = self.down_proj(self.activation(up), counts)
        return down.float()


class SandwichLayer(nn.Module):
    """Attention and MLP with residuals. `per_modality` layers take and return tokens grouped by modality.

    `activation_checkpointing` works while training with gradients, and nowhere else.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        index: int,
        compute_dtype: torch.dtype,
        activation_checkpointing: ActivationCheckpointing = "none",
    ) -> None:
        super().__init__()
        self.activation_checkpointing = activation_checkpointing
        self.per_modality = index in config.mm_layers
        self.is_local = index in config.local_attention_layers
        self.compute_dtype = compute_dtype
        self.attention = Attention(config, per_modality=self.per_modality, compute_dtype=compute_dtype)
        self.mlp = MLP(
            config, gelu7=index in config.gelu7_layers, per_modality=self.per_modality, compute_dtype=compute_dtype
        )

    def before_attention(self, x: Tensor, context: SequenceContext) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rotated queries and keys, and values, in sequence order and compute dtype; gate logits in the layer's."""
        return self._half(self._before_attention, x, context)

    def after_attention(self, x: Tensor, attended: Tensor, gate: Tensor, context: SequenceContext) -> Tensor:
        """Adds the attention's output and the MLP's to the residual stream."""
        return self._half(self._after_attention, x, attended, gate, context)

    def forward(self, x: Float[Tensor, "N hidden"], context: SequenceContext) -> Float[Tensor, "N hidden"]:
        return recomputed(self._forward, x, context) if self._recomputes("full") else self._forward(x, context)

    def _forward(self, x: Tensor, context: SequenceContext) -> Tensor:
        q, k, v, gate = self.before_attention(x, context)
        pattern = context.local_pattern if self.is_local else context.full_pattern
        attended = context.attend(q, k, v, pattern)
        return self.after_attention(x, attended, gate, context)

    def _before_attention(self, x: Tensor, context: SequenceContext) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        q, k, v, gate = self.attention.project(x, context.modality_counts)
        if self.per_modality:
            q, k, v = (part[context.sequence_index] for part in (q, k, v))
        q, k = rotate(q, context.rotary), rotate(k, context.rotary)
        return q.to(self.compute_dtype), k.to(self.compute_dtype), v.to(self.compute_dtype), gate

    def _after_attention(self, x: Tensor, attended: Tensor, gate: Tensor, context: SequenceContext) -> Tensor:
        if self.per_modality:
            attended = attended[context.group_index]
        x = x + self.attention.combine(attended, gate, context.modality_counts)
        change: Tensor = self.mlp(x, context.modality_counts)
        return x + change

    def _half(self, function: Callable[..., T], *arguments: Any) -> T:
        recomputes = self._recomputes("selective")
        return recomputed_between_products(function, *arguments) if recomputes else function(*arguments)

    def _recomputes(self, kind: ActivationCheckpointing) -> bool:
        return self.activation_checkpointing == kind and self.training and torch.is_grad_enabled()
