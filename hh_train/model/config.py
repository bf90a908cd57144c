"""What decides a sandwich transformer's shape. Sizes that are not given follow as in the released 15B model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture of a `SandwichTransformer` (arXiv:2603.21986); saved in every checkpoint.

    Raises ValueError for sizes that do not fit together.
    """

    num_layers: int
    hidden_size: int
    head_dim: int
    num_query_groups: int
    """Key-value heads; query head i uses key-value head i // (num_heads / num_query_groups)."""
    video_in_channels: int
    """Latent channels times the patch volume."""
    audio_in_channels: int
    text_in_channels: int
    mm_layers: tuple[int, ...]
    """Layers with one expert per modality."""
    gelu7_layers: tuple[int, ...]
    """Layers with a clamped GELU MLP; the others have a clamped SwiGLU."""
    patch: tuple[int, int, int] = (1, 2, 2)
    coordinates: Literal["v1", "v2"] = "v2"
    """How audio and text lie on the video's time axis: v2 in the base and distilled models, v1 in super-resolution."""
    local_attention_layers: tuple[int, ...] = ()
    """Layers in which a video token sees the video of near latent frames alone, and all audio and text of its clip."""
    local_attention_frames: int = 11
    """Latent frames that it sees to each side of its own."""

    def __post_init__(self) -> None:
        faults = []
        if self.hidden_size % self.head_dim:
            faults.append(f"head_dim {self.head_dim} must divide hidden_size {self.hidden_size}")
        elif self.num_heads % self.num_query_groups:
            faults.append(f"num_query_groups {self.num_query_groups} must divide the {self.num_heads} heads")
        if self.head_dim % 8:
            faults.append(f"head_dim {self.head_dim} must be a multiple of 8, for rotary bands on three axes")
        if self.video_in_channels % self.patch_volume:
            faults.append(
                f"the patch volume {self.patch_volume} must divide video_in_channels {self.video_in_channels}"
            )
        if self.local_attention_frames < 0:
            faults.append(f"local_attention_frames {self.local_attention_frames} must be 0 or more")
        if self.local_attention_layers and self.patch[0] != 1:
            faults.append(f"local attention counts latent frames: a patch of {self.patch[0]} of them must be of 1")
        for name in ("mm_layers", "gelu7_layers", "local_attention_layers"):
            beyond = [index for index in getattr(self, name) if not 0 <= index < self.num_layers]
            if beyond:
                faults.append(f"{name} names layers {beyond}, but there are layers 0 to {self.num_layers - 1}")
        if faults:
            raise ValueError("model config: " + "; ".join(faults))

    @property
    def num_heads(self) -> int:
        return self.hidden_size // self.head_dim

    @property
    def patch_volume(self) -> int:
        return self.patch[0] * self.patch[1] * self.patch[2]

    @property
    def gelu7_size(self) -> int:
        """Inner width of a GELU MLP."""
        return 4 * self.hidden_size

    @property
    def swiglu7_size(self) -> int:
        """Inner width of a SwiGLU MLP."""
        return int(self.hidden_size * 4 * 2 / 3) // 4 * 4

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> ModelConfig:
        """Raises ValueError that names unknown and missing fields."""
        known = {f.name: f for f in dataclasses.fields(cls)}
        unknown = sorted(set(fields) - set(known))
        missing = sorted(name for name, f in known.items() if f.default is dataclasses.MISSING and name not in fields)
        if unknown or missing:
            raise ValueError(f"model config: unknown fields {unknown}, missing fields {missing}")
        values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in fields.items()}
        return cls(**values)
