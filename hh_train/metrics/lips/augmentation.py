"""What makes few mouths many for the lip reader: places, sizes, light, speed, blur, and the seams of a generator.

Generated pictures are softer than real ones, and fall into patches. Without seeing such mouths in training the reader
would count the codec's faults as the generator's.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def augment(crops: Float[Tensor, "F S S"], generator: torch.Generator) -> Float[Tensor, "G S S"]:
    """One random variant of the crops that `lip_network.normalized` made; another number of frames where its speed is
    another.
    """
    varied = _respeed(crops, generator)
    varied = _replace(varied, generator)
    if _uniform(0.0, 1.0, generator) < 0.5:
        varied = varied.flip(-1)
    varied = soften(varied, generator)
    gain, offset = _uniform(0.75, 1.25, generator), _uniform(-0.25, 0.25, generator)
    noise = torch.randn(varied.shape, generator=generator) * _uniform(0.0, 0.25, generator)
    return _cover(varied * gain + offset + noise, generator)


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _respeed(crops: Tensor, generator: torch.Generator) -> Tensor:
    """0.85 to 1.2 of the speed."""
    count = max(round(crops.shape[0] / _uniform(0.85, 1.2, generator)), 2)
    stretched = functional.interpolate(crops.flatten(1).T[None], size=count, mode="linear", align_corners=True)
    return stretched[0].T.reshape(count, *crops.shape[1:])


def _replace(crops: Tensor, generator: torch.Generator) -> Tensor:
    """Shifted by up to a tenth, scaled by 0.88 to 1.14, turned by up to 6 degrees: what a tracker gets wrong."""
    angle, scale = _uniform(-0.1, 0.1, generator), _uniform(0.88, 1.14, generator)
    x, y = (_uniform(-0.2, 0.2, generator) for _ in range(2))
    turn = torch.tensor([[1.0, -angle, x], [angle, 1.0, y]]) * torch.tensor([scale, scale, 1.0])
    count, height, width = crops.shape
    grid = functional.affine_grid(turn[None], [1, 1, height, width], align_corners=False)
    moved = functional.grid_sample(crops[None], grid, padding_mode="border", align_corners=False)
    return moved[0].reshape(count, height, width)


def soften(crops: Tensor, generator: torch.Generator) -> Tensor:
    """Blur, or the errors of a patch codec: a wrong gray in every patch and frame."""
    kind = _uniform(0.0, 1.0, generator)
    if kind < 0.35:
        size = (3, 5)[int(torch.randint(2, (), generator=generator))]
        return functional.avg_pool2d(crops[None], size, stride=1, padding=size // 2, count_include_pad=False)[0]
    if kind < 0.6:
        side = int(torch.randint(3, 7, (), generator=generator))
        patches = torch.randn(crops.shape[0], side, side, generator=generator) * _uniform(0.0, 0.4, generator)
        lasting = torch.randn(1, side, side, generator=generator) * _uniform(0.0, 0.4, generator)
        return crops + functional.interpolate((patches + lasting)[None], size=crops.shape[1:])[0]
    return crops


def _cover(crops: Tensor, generator: torch.Generator) -> Tensor:
    """A square of up to a quarter of the side, and up to two frames, turned gray."""
    count, height, _ = crops.shape
    covered = crops.clone()
    side = int(_uniform(0.0, 0.25, generator) * height)
    top, left = (int(_uniform(0.0, float(height - side), generator)) for _ in range(2))
    covered[:, top : top + side, left : left + side] = 0
    length = int(torch.randint(0, 3, (), generator=generator))
    start = int(_uniform(0.0, float(max(count - length, 0)), generator))
    covered[start : start + length] = 0
    return covered
