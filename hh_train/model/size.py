"""How large a model and its clips are, in closed form: parameters, tokens, floating point operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hh_train.model.attention import attention_pattern
from hh_train.model.config import ModelConfig
from hh_train.types import ClipLayout, Modality


@dataclass(frozen=True, kw_only=True)
class ParameterCounts:
    """Parameters of a model by part."""

    adapter: int
    modality_layers: int
    """Layers with one expert per modality, all experts counted."""
    shared_layers: int
    final: int
    active_in_layers: int
    """What one token meets in all layers: one expert of each."""

    @property
    def total(self) -> int:
        return self.adapter + self.modality_layers + self.shared_layers + self.final


def parameter_counts(config: ModelConfig) -> ParameterCounts:
    """Counts what `SandwichTransformer` would hold."""
    hidden, channels = config.hidden_size, (config.video_in_channels, config.audio_in_channels, config.text_in_channels)
    experts = [_expert_parameters(config, index) for index in range(config.num_layers)]
    per_modality = set(config.mm_layers)
    return ParameterCounts(
        adapter=sum(hidden * (width + 1) for width in channels),
        modality_layers=len(Modality) * sum(experts[index] for index in per_modality),
        shared_layers=sum(size for index, size in enumerate(experts) if index not in per_modality),
        final=hidden * (2 + config.video_in_channels + config.audio_in_channels),
        active_in_layers=sum(experts),
    )


def product_parameters(config: ModelConfig, index: int) -> int:
    """Weights of one expert of a layer's four matrix products."""
    hidden = config.hidden_size
    heads = config.num_heads + 2 * config.num_query_groups
    attention = hidden * (heads * config.head_dim + config.num_heads) + hidden * hidden
    is_gelu = index in config.gelu7_layers
    return attention + hidden * (2 * config.gelu7_size if is_gelu else 3 * config.swiglu7_size)


def layer_parameters(config: ModelConfig, index: int) -> int:
    """All parameters of a layer."""
    experts = len(Modality) if index in config.mm_layers else 1
    return experts * _expert_parameters(config, index)


def _expert_parameters(config: ModelConfig, index: int) -> int:
    norms = 2 * config.hidden_size + 2 * config.head_dim
    return product_parameters(config, index) + norms


def forward_flops(config: ModelConfig, layouts: Sequence[ClipLayout]) -> int:
    """Floating point operations of a forward pass over a pack: the layers' matrix products and attention.

    A backward pass takes twice as many. Two operations for each active weight and token, and four for each channel and
    pair of tokens that see each other.
    """
    layouts = tuple(layouts)
    active = sum(product_parameters(config, index) for index in range(config.num_layers))
    num_local = len(set(config.local_attention_layers))
    full, local = attention_pattern(layouts), attention_pattern(layouts, config.local_attention_frames)
    pairs = (config.num_layers - num_local) * full.num_pairs + num_local * local.num_pairs
    return 2 * active * sum(full.lengths) + 4 * config.hidden_size * pairs


@dataclass(frozen=True, kw_only=True)
class ClipShape:
    """Size and length of a clip, and what the codecs make of it.

    Args:
        size: height and width in pixels.
        seconds: length; 0 for a single picture.
        frames_per_second: of the video; a clip has one frame more than seconds times this.
        video_stride: frames, rows and columns of a video latent.
        audio_latents_per_second: 0 for silent clips.
        text_tokens: of the prompt.
    """

    size: tuple[int, int]
    seconds: float
    frames_per_second: float = 25.0
    video_stride: tuple[int, int, int] = (4, 16, 16)
    audio_latents_per_second: float = 25.0
    text_tokens: int = 300

    @property
    def num_frames(self) -> int:
        return round(self.seconds * self.frames_per_second) + 1

    def layout(self, patch: tuple[int, int, int]) -> ClipLayout:
        """The clip's tokens. Raises ValueError for a size that strides and patch do not divide."""
        latents = (self.num_frames - 1) // self.video_stride[0] + 1
        steps = (self.video_stride[1] * patch[1], self.video_stride[2] * patch[2])
        if latents % patch[0] or any(pixels % step for pixels, step in zip(self.size, steps, strict=True)):
            near = tuple(max(1, round(pixels / step)) * step for pixels, step in zip(self.size, steps, strict=True))
            raise ValueError(
                f"a clip of {latents} latent frames of {self.size[0]} x {self.size[1]} pixels cannot be cut into "
                f"patches of {patch} latents of stride {self.video_stride}: the nearest size is {near[0]} x {near[1]}, "
                f"the number of latent frames a multiple of {patch[0]}"
            )
        audio = round(self.seconds * self.audio_latents_per_second) + 1 if self.audio_latents_per_second else 0
        grid = (latents // patch[0], self.size[0] // steps[0], self.size[1] // steps[1])
        return ClipLayout(video=grid, audio=audio, text=self.text_tokens)
