"""Rotary positions from coordinates.

Every token has a coordinate on three axes (time, height, width), measured in video patches of its clip; a token is
rotated by sines and cosines of its coordinates. Audio is laid on the video's time axis, four latents to a video latent.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hh_train.types import ClipLayout

CoordinateStyle = Literal["v1", "v2"]
AUDIO_LATENTS_PER_VIDEO_LATENT = 4


@dataclass(frozen=True)
class RotaryTable:
    """Cosines and sines of a sequence's angles, one head's pairs wide."""

    cos: Float[Tensor, "N R"]
    sin: Float[Tensor, "N R"]


class RotaryBands(nn.Module):
    """The frequencies: b_i = 10000^(-i/n), i < n = head_dim / 8, each used on all three axes."""

    bands: Tensor

    def __init__(self, *, head_dim: int) -> None:
        super().__init__()
        num_bands = head_dim // 8
        self.register_buffer("bands", 10000.0 ** (-torch.arange(num_bands, dtype=torch.float32) / num_bands))

    def forward(self, coordinates: Float[Tensor, "N 3"]) -> RotaryTable:
        angles = (coordinates[:, :, None] * self.bands.float()).flatten(1)
        return RotaryTable(cos=angles.cos(), sin=angles.sin())


def rotate(x: Float[Tensor, "N heads D"], table: RotaryTable) -> Float[Tensor, "N heads D"]:
    """Rotates the pairs (j, j + R) of the first 2R of D dimensions; the rest passes through."""
    width = table.cos.shape[1]
    first, second, rest = x[..., :width], x[..., width : 2 * width], x[..., 2 * width :]
    cos, sin = table.cos[:, None], table.sin[:, None]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], dim=-1)


@lru_cache(maxsize=64)
def coordinates(layouts: tuple[ClipLayout, ...], style: CoordinateStyle) -> Float[Tensor, "N 3"]:
    """Coordinates (t, h, w) of every token of the sequence, scaled as the released models scale them.

    Height and width are centered on the picture, time starts at 0. An axis of size n with reference length r is scaled
    by (r-1)/(n-1): v2 lays L audio latents on (L-1)//4+1 video latents and gives all text the time 0; v1 lays audio on
    the clip's own video latents and text on [0, 1].

    Raises ValueError, saying which clip it is, for a single audio latent or text token where v1 would divide by zero.
    """
    pieces = []
    for index, layout in enumerate(layouts):
        try:
            pieces.append(_clip_coordinates(layout, style))
        except ValueError as error:
            raise ValueError(f"clip {index} of the pack (counted from 0): {error}") from error
    return torch.cat(pieces)


def _clip_coordinates(layout: ClipLayout, style: CoordinateStyle) -> Tensor:
    time, height, width = layout.video
    audio_end = time if style == "v1" and time else (layout.audio - 1) // AUDIO_LATENTS_PER_VIDEO_LATENT + 1
    text_end, text_start = (1, -layout.text) if style == "v2" else (2, 0)
    grid = torch.meshgrid(
        _axis(time, time),
        _axis(height, height) - (height - 1) / 2,
        _axis(width, width) - (width - 1) / 2,
        indexing="ij",
    )
    return torch.cat(
        [
            torch.stack(grid, dim=-1).reshape(-1, 3),
            _on_time_axis(_axis(layout.audio, audio_end)),
            _on_time_axis(_axis(layout.text, text_end, text_start)),
        ]
    )


def _axis(size: int, reference: int, offset: int = 0) -> Tensor:
    """`size` steps from `offset`, stretched so that they would span `reference` steps."""
    if size == 1 and reference not in (0, 1):
        raise ValueError(
            f"one token cannot be stretched over {reference} steps: "
            "coordinates v1 want at least 2 audio latents beside a video of several latents, and at least 2 text tokens"
        )
    scale = 1.0 if size <= 1 else (reference - 1) / (size - 1)
    return (torch.arange(size, dtype=torch.float32) + offset) * scale


def _on_time_axis(time: Tensor) -> Tensor:
    return torch.stack([time, torch.zeros_like(time), torch.zeros_like(time)], dim=-1)
