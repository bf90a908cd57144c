"""The single-stream sandwich transformer (arXiv:2603.21986).

One sequence of video, audio and text tokens, self-attention alone, no timestep input: the model reads the noise level
off the tokens. Parameter names, shapes and expert order are those of the released checkpoints.
"""

from __future__ import annotations

from types import MethodType
from typing import Literal, cast

import torch
from torch import Tensor, nn

from hh_train.model.attention import AttentionBackend, PerClipAttention
from hh_train.model.blocks import SandwichLayer, SequenceContext
from hh_train.model.config import ModelConfig
from hh_train.model.modality import ModalityLinear, ModalityRMSNorm
from hh_train.model.rope import RotaryBands, coordinates
from hh_train.types import PackedBatch, Prediction

ComputeDtype = Literal["float32", "bfloat16"]
NO_EXPERTS = (0, 0, 0)


class Adapter(nn.Module):
    """Embeds each modality's features, in fp32, and holds the rotary frequencies."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.video_embedder = nn.Linear(config.video_in_channels, config.hidden_size)
        self.text_embedder = nn.Linear(config.text_in_channels, config.hidden_size)
        self.audio_embedder = nn.Linear(config.audio_in_channels, config.hidden_size)
        self.rope = RotaryBands(head_dim=config.head_dim)

    def forward(self, batch: PackedBatch) -> Tensor:
        """Tokens grouped by modality [N hidden]; one that the pack lacks passes zero rows whatever its channels."""
        embedders = (self.video_embedder, self.audio_embedder, self.text_embedder)
        features = (batch.video, batch.audio, batch.text)
        return torch.cat(
            [
                embed(x.float() if len(x) else x.new_zeros(0, embed.in_features, dtype=torch.float32))
                for embed, x in zip(embedders, features, strict=True)
            ]
        )


class Block(nn.Module):
    """The stack of layers."""

    def __init__(self, config: ModelConfig, *, compute_dtype: torch.dtype) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            SandwichLayer(config, index=index, compute_dtype=compute_dtype) for index in range(config.num_layers)
        )

    @property
    def in_order(self) -> list[SandwichLayer]:
        """The layers from the first to the last."""
        return [cast(SandwichLayer, layer) for layer in self.layers]

    def forward(self, x: Tensor, context: SequenceContext) -> Tensor:
        """Tokens grouped by modality in and out. Tokens are reordered only where the kind of layer changes."""
        grouped = True
        for layer in self.in_order:
            if layer.per_modality != grouped:
                x = x[context.group_index if layer.per_modality else context.sequence_index]
                grouped = layer.per_modality
            x = layer(x, context)
        return x if grouped else x[context.group_index]


class SandwichTransformer(nn.Module):
    """Velocity of noised video and audio tokens, given each other and the text.

    Norms, embedders, the residual stream and the output layers compute in fp32; the layers' matrix products and
    attention in `compute_dtype`. `compile_layers` compiles what stands before and after each attention.
    """

    def __init__(
        self,
        *,
        config: ModelConfig,
        compute_dtype: ComputeDtype = "bfloat16",
        attention: AttentionBackend | None = None,
        compile_layers: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.attend: AttentionBackend = attention or PerClipAttention()
        self.adapter = Adapter(config)
        self.block = Block(config, compute_dtype=getattr(torch, compute_dtype))
        self.final_norm_video = ModalityRMSNorm(size=config.hidden_size, per_modality=False)
        self.final_norm_audio = ModalityRMSNorm(size=config.hidden_size, per_modality=False)
        self.final_linear_video = nn.Linear(config.hidden_size, config.video_in_channels, bias=False)
        self.final_linear_audio = nn.Linear(config.hidden_size, config.audio_in_channels, bias=False)
        self.init_weights()
        if compile_layers:
            self.compile_layers()

    @property
    def layers(self) -> list[SandwichLayer]:
        """The layers from the first to the last."""
        return self.block.in_order

    def init_weights(self) -> None:
        """Truncated normals of std 1/sqrt(fan in), projections into the residual stream 1/sqrt(2 layers) smaller, zeros
        for the output layer (so that the first prediction is the mean, 0), the biases and the norms.
        """
        residual_scale = (2 * self.config.num_layers) ** -0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2 or name.startswith("final_linear"):
                nn.init.zeros_(parameter)
                continue
            scale = residual_scale if name.endswith(("linear_proj.weight", "down_proj.weight")) else 1.0
            std = scale * parameter.shape[1] ** -0.5
            nn.init.trunc_normal_(parameter, std=std, a=-3 * std, b=3 * std)

    def compile_layers(self, *, backend: str = "inductor") -> None:
        """Compiles what stands before and after each layer's attention, in one graph each, for any number of tokens."""
        for name in ("before_attention", "after_attention"):
            method = torch.compile(getattr(SandwichLayer, name), dynamic=True, fullgraph=True, backend=backend)
            for layer in self.layers:
                setattr(layer, name, MethodType(method, layer))

    def forward(self, batch: PackedBatch) -> Prediction:
        """Raises ValueError when the pack's channels are not the model's."""
        self._check(batch)
        axes = coordinates(batch.layouts, self.config.coordinates).to(batch.sequence_index.device)
        context = SequenceContext(
            rotary=self.adapter.rope(axes),
            sequence_index=batch.sequence_index,
            group_index=batch.group_index,
            modality_counts=batch.modality_counts,
            lengths=batch.lengths,
            attend=self.attend,
        )
        x = self.block(self.adapter(batch), context)
        video, audio, _ = x.split(batch.modality_counts)
        video = self._to_input_order(self.final_linear_video(self.final_norm_video(video, NO_EXPERTS)))
        audio = self.final_linear_audio(self.final_norm_audio(audio, NO_EXPERTS))
        # A modality that the whole pack lacks has zero rows and zero channels, in the pack as in the prediction.
        return Prediction(video=video[:, : batch.video.shape[1]], audio=audio[:, : batch.audio.shape[1]])

    def _to_input_order(self, patches: Tensor) -> Tensor:
        """The released weights read patches channel-major (c pT pH pW) but write them channel-minor (pT pH pW c)."""
        by_position: Tensor = patches.unflatten(-1, (self.config.patch_volume, -1))
        return by_position.transpose(1, 2).flatten(1)

    def _check(self, batch: PackedBatch) -> None:
        wanted = {
            "video": self.config.video_in_channels,
            "audio": self.config.audio_in_channels,
            "text": self.config.text_in_channels,
        }
        faults = [
            f"{name} tokens have {tokens.shape[1]} channels, the model reads {channels}"
            for name, channels in wanted.items()
            if len(tokens := getattr(batch, name)) and tokens.shape[1] != channels
        ]
        if faults:
            raise ValueError("; ".join(faults) + ": use the tokenizers and the patch that the model was made for")

    def forward_flops(self, batch: PackedBatch) -> int:
        """Floating point operations of a forward pass: matrix products and attention (backward costs twice that)."""
        products = [module for module in self.block.modules() if isinstance(module, ModalityLinear)]
        active = sum(product.weight.numel() // product.num_experts for product in products)
        attention = 2 * self.config.num_layers * self.config.hidden_size * sum(n * n for n in batch.lengths)
        return 2 * (active * batch.num_tokens + attention)
