"""The single-stream sandwich transformer (arXiv:2603.21986).

One sequence of video, audio and text tokens, self-attention alone, no timestep input: the model reads the noise level
off the tokens. Parameter names, shapes and expert order are those of the released checkpoints.
"""

from __future__ import annotations

from types import MethodType
from typing import Literal, cast

import torch
from torch import Tensor, nn

from hh_train.model.attention import AttentionBackend, AttentionName, attention_backend, attention_pattern
from hh_train.model.blocks import SandwichLayer, SequenceContext
from hh_train.model.config import ModelConfig
from hh_train.model.modality import ModalityRMSNorm
from hh_train.model.recompute import ActivationCheckpointing
from hh_train.model.rope import RotaryBands, coordinates
from hh_train.model.size import forward_flops
from hh_train.types import PackedBatch, Prediction

ComputeDtype = Literal["float32", "bfloat16"]
NO_EXPERTS = (0, 0, 0)
MAX_GRAPHS = 128
"""Per half of a layer, of all models in a process."""


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

    def __init__(
        self, config: ModelConfig, *, compute_dtype: torch.dtype, activation_checkpointing: ActivationCheckpointing
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            SandwichLayer(
                config, index=index, compute_dtype=compute_dtype, activation_checkpointing=activation_checkpointing
            )
            for index in range(config.num_layers)
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
    attention in `compute_dtype`. `compile_layers` compiles what stands before and after each attention. `attention` is
    a backend or the name of one; "auto" picks the best for the device at the first forward pass. With
    `activation_checkpointing`, training keeps less for the backward pass and computes it again (model/recompute.py).

    Raises ValueError for an attention backend that cannot run: it says what is missing.
    """

    def __init__(
        self,
        *,
        config: ModelConfig,
        compute_dtype: ComputeDtype = "bfloat16",
        attention: AttentionName | AttentionBackend = "auto",
        compile_layers: bool = False,
        activation_checkpointing: ActivationCheckpointing = "none",
    ) -> None:
        super().__init__()
        self.config = config
        self.attend = attention_backend(attention, dtype=getattr(torch, compute_dtype), head_dim=config.head_dim)
        self.adapter = Adapter(config)
        self.block = Block(
            config,
            compute_dtype=getattr(torch, compute_dtype),
            activation_checkpointing=activation_checkpointing,
        )
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
        for biases and norms.

        Video and audio embedders are orthogonal and the output layers their inverses, so that the first prediction
        follows the noised token, which at high noise levels is nearly the velocity: the model need not learn first to
        carry the noise through its residual stream.
        """
        residual_scale = (2 * self.config.num_layers) ** -0.5
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                nn.init.zeros_(parameter)
                continue
            scale = residual_scale if name.endswith(("linear_proj.weight", "down_proj.weight")) else 1.0
            std = scale * parameter.shape[1] ** -0.5
            nn.init.trunc_normal_(parameter, std=std, a=-3 * std, b=3 * std)
        _invert(self.adapter.video_embedder, self.final_linear_video, patch_volume=self.config.patch_volume)
        _invert(self.adapter.audio_embedder, self.final_linear_audio)

    def compile_layers(self, *, backend: str = "inductor") -> None:
        """Compiles what stands before and after each layer's attention, in one graph each, for any number of tokens.

        All models of a process share the compiler's limit of graphs per function, so it is raised: each model takes
        one for every kind of layer, with and without gradients, and further ones for packs that lack a modality.
        """
        limits = torch._dynamo.config
        limits.recompile_limit = max(limits.recompile_limit, MAX_GRAPHS)
        for name in ("before_attention", "after_attention"):
            method = torch.compile(getattr(SandwichLayer, name), dynamic=True, fullgraph=True, backend=backend)
            for layer in self.layers:
                setattr(layer, name, MethodType(method, layer))

    def forward(self, batch: PackedBatch) -> Prediction:
        """Raises ValueError when the pack's channels are not the model's."""
        self._check(batch)
        x = self.block(self.adapter(batch), self.context(batch))
        video, audio, _ = x.split(batch.modality_counts)
        video = self._to_input_order(self.final_linear_video(self.final_norm_video(video, NO_EXPERTS)))
        audio = self.final_linear_audio(self.final_norm_audio(audio, NO_EXPERTS))
        # A modality that the whole pack lacks has zero rows and zero channels, in the pack as in the prediction.
        return Prediction(video=video[:, : batch.video.shape[1]], audio=audio[:, : batch.audio.shape[1]])

    def context(self, batch: PackedBatch) -> SequenceContext:
        """What the layers need to know of a pack."""
        axes = coordinates(batch.layouts, self.config.coordinates).to(batch.sequence_index.device)
        return SequenceContext(
            rotary=self.adapter.rope(axes),
            sequence_index=batch.sequence_index,
            group_index=batch.group_index,
            modality_counts=batch.modality_counts,
            full_pattern=attention_pattern(batch.layouts),
            local_pattern=attention_pattern(batch.layouts, self.config.local_attention_frames),
            attend=self.attend,
        )

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
        return forward_flops(self.config, batch.layouts)


@torch.no_grad()
def _invert(embedder: nn.Linear, output: nn.Linear, *, patch_volume: int = 1) -> None:
    """Makes the embedder orthogonal, its embeddings of mean square 1 for such tokens, and the output its inverse."""
    hidden_size, channels = embedder.weight.shape
    gain = max(1.0, (hidden_size / channels) ** 0.5)
    nn.init.orthogonal_(embedder.weight, gain=gain)
    channel_major = embedder.weight.T / gain**2
    output.weight.copy_(channel_major.unflatten(0, (-1, patch_volume)).transpose(0, 1).flatten(0, 1))
