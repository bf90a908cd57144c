"""Whether a clip moves, by the rules of VBench: which frames are compared, which flow counts, where the thresholds lie.

VBench: Huang et al., CVPR 2024. Its dynamic degree says yes or no; a talking head before a still camera is mostly a no,
so the mean of the same flow is kept beside it as a number (`flow_speed`). The thresholds were set for the flow network
RAFT, and frames of 256 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

COMPARED_FRAMES_PER_SECOND = 8.0
_DYNAMIC_SHARE, _STATIC_SHARE = 0.05, 0.02
_THRESHOLD_SIDE = 256.0


def compared_frames(num_frames: int, frames_per_second: float) -> range:
    """The frames that are compared, each with the next of them: about eight a second."""
    return range(0, num_frames, max(1, round(frames_per_second / COMPARED_FRAMES_PER_SECOND)))


def static_pairs(num_frames: int) -> list[tuple[int, int]]:
    """The frames whose flow the static filter looks at: all neighbors, then first to last and back."""
    last = num_frames - 1
    return [*pairwise(range(num_frames)), (0, last), (last, 0)]


def strongest_flow(flow: Float[Tensor, "2 H W"], *, share: float = _DYNAMIC_SHARE) -> float:
    """Mean length of the largest `share` of the flow vectors, in the flow's unit; 0 where that is not one vector."""
    lengths = flow.double().norm(dim=0).flatten()
    count = int(lengths.numel() * share)
    return float(lengths.topk(count).values.mean()) if count else 0.0


def strongest_static_flow(flow: Float[Tensor, "2 H W"]) -> float:
    """`strongest_flow` as the static filter takes it."""
    return strongest_flow(flow, share=_STATIC_SHARE)


def is_dynamic(strengths: Sequence[float], *, short_side: int, frames_per_second: float) -> bool:
    """VBench's dynamic degree of one clip.

    Args:
        strengths: `strongest_flow` in pixels of the neighbors among the `compared_frames`.
        short_side: of the frame, in pixels.
        frames_per_second: of the clip.

    Raises:
        ValueError: for fewer than three compared frames, of which the rule wants no motion at all to say yes.
    """
    count = len(strengths) + 1
    needed = round(4 * count / 16)
    if needed < 1:
        raise ValueError(
            f"got {count} compared frames, of which VBench's rule needs {needed} in motion; wanted a clip of at least 3"
        )
    threshold = max(1.0, COMPARED_FRAMES_PER_SECOND / frames_per_second) * 6.0 * short_side / _THRESHOLD_SIDE
    return sum(strength > threshold for strength in strengths) >= needed


def is_static(strengths: Sequence[float], *, short_side: int) -> bool:
    """VBench's static filter: the clips whose temporal flickering means something.

    Args:
        strengths: `strongest_static_flow` in pixels of the `static_pairs`.
        short_side: of the frame, in pixels.

    Raises:
        ValueError: for fewer than two frames.
    """
    if len(strengths) < 3:
        raise ValueError(f"got {len(strengths)} flows; two frames make 3 of them: neighbors, ends, ends reversed")
    *neighbors, forth, back = strengths
    threshold = 3.0 * short_side / _THRESHOLD_SIDE
    allowed = round(2 * (len(neighbors) + 1) / 16)
    if sum(strength > threshold for strength in neighbors) > allowed:
        return False
    return max(forth, back) <= threshold * allowed * 2


def flow_speed(strengths: Sequence[float], *, num_frames: int, frames_per_second: float) -> float:
    """The continuous dynamic degree: mean of `strengths` (in short sides) a second.

    Raises:
        ValueError: without a strength.
    """
    if not strengths:
        raise ValueError("got no compared frames; wanted a clip long enough for two")
    step = compared_frames(num_frames, frames_per_second).step
    return float(torch.tensor(strengths, dtype=torch.float64).mean()) * frames_per_second / step
