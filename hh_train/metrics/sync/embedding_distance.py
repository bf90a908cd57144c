"""Sync by embeddings: the distance of pictures and sound over shifts, and the scores that SyncNet's protocol reads off.

For windows of picture v_t and of sound a_t on the same clock (25 a second), the distance at shift s is the mean over t
of |v_t - a_(t+s)|. The scores (Chung and Zisserman, "Out of time", 2016; named LSE-D and LSE-C by Prajwal et al., "A
lip sync expert is all you need", 2020):

- LSE-D: the smallest distance over the shifts. A clip 400 ms out of step can score well, so it says nothing without the
  offset; the distance at shift zero does.
- LSE-C: the median over the shifts minus the smallest.
- The offset: minus the shift of the smallest distance. Positive, the sound leads (it comes before the picture).

The protocol's code pads the sound with zero embeddings, which belong to no sound: the distances at large shifts are
then lower or higher by the clip's length (`edge="zero"`, for comparison with published numbers). `edge="mask"` averages
over the pairs that exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from hh_train.metrics.clip_metric import ClipMetric

Edge = Literal["zero", "mask"]
MAX_SHIFT = 15
LEAST_PAIRS = 8
"""A shift that fewer pairs of windows can be compared at counts for nothing (`edge="mask"`)."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingSync:
    """What the distances of one clip say."""

    offset_frames: float
    """Whole frames, as the protocol has it. Positive: the sound leads."""
    refined_offset_frames: float
    """The vertex of the parabola through the smallest distance and its two neighbors."""
    lse_c: float
    lse_d: float
    at_zero: float
    """The distance at shift zero."""
    distances: tuple[float, ...]
    """At shifts of the sound from -max_shift to max_shift; NaN where no or too few windows meet."""


def shift_distances(
    video: Float[Tensor, "T D"], audio: Float[Tensor, "T D"], *, max_shift: int = MAX_SHIFT, edge: Edge = "mask"
) -> Float[Tensor, " shifts"]:
    """Mean distance of v_t and a_(t+s) for s from -max_shift to max_shift; NaN where `mask` leaves fewer than 8 pairs.

    Distances are torch's `pairwise_distance`, whose 1e-6 under the norm the protocol's code has too.

    Raises:
        ValueError: for a max_shift below 1, or no windows.
    """
    count = video.shape[0]
    if max_shift < 1 or not count:
        raise ValueError(f"got max_shift {max_shift} and {count} windows; wanted 1 or more of each")
    padded = functional.pad(audio, (0, 0, max_shift, max_shift))
    distances = []
    for index in range(2 * max_shift + 1):
        shift = index - max_shift
        first, last = (0, count) if edge == "zero" else (max(0, -shift), min(count, count - shift))
        if edge == "mask" and last - first < LEAST_PAIRS:
            distances.append(video.new_tensor(torch.nan))
            continue
        moved = padded[index + first : index + last]
        distances.append(functional.pairwise_distance(video[first:last], moved).mean())
    return torch.stack(distances)


def embedding_sync(
    video: Float[Tensor, "T D"], audio: Float[Tensor, "T D"], *, max_shift: int = MAX_SHIFT, edge: Edge = "mask"
) -> EmbeddingSync:
    """The scores of a clip's embeddings. A tie of distances goes to the smallest index, as in the protocol's code.

    Raises:
        ValueError: as `shift_distances`, and where `mask` leaves no three shifts to compare.
    """
    distances = shift_distances(video, audio, max_shift=max_shift, edge=edge)
    known = ~distances.isnan()
    if int(known.sum()) < 3:
        raise ValueError(
            f"got {video.shape[0]} windows; wanted {LEAST_PAIRS + 1} or more: a clip this short has no offset"
        )
    best = int(distances.nan_to_num(nan=torch.inf).argmin())
    smallest = float(distances[best])
    return EmbeddingSync(
        offset_frames=float(max_shift - best),
        refined_offset_frames=max_shift - best - _vertex(distances, best),
        lse_c=float(distances.nanmedian()) - smallest,
        lse_d=smallest,
        at_zero=float(distances[max_shift]),
        distances=tuple(distances.tolist()),
    )


def _vertex(distances: Tensor, best: int) -> float:
    """Place of a parabola's lowest point relative to `best`, at most half a step away; 0 at the ends."""
    if not 0 < best < len(distances) - 1:
        return 0.0
    left, middle, right = distances[best - 1 : best + 2].tolist()
    bend = left - 2 * middle + right
    if not bend > 0:  # NaN beside it, or a plateau
        return 0.0
    return float((left - right) / (2 * bend))


class LipSyncError(ClipMetric):
    """LSE-C, LSE-D, the distance at shift zero and the absolute offset in frames, from given embeddings."""

    names: ClassVar[tuple[str, ...]] = ("lse_c", "lse_d", "at_zero_distance", "absolute_offset_frames")

    def update(
        self,
        key: str,
        video: Float[Tensor, "T D"],
        audio: Float[Tensor, "T D"],
        *,
        max_shift: int = MAX_SHIFT,
        edge: Edge = "mask",
    ) -> None:
        """Compares a clip's windows and adds it."""
        found = embedding_sync(video, audio, max_shift=max_shift, edge=edge)
        rows = (found.lse_c, found.lse_d, found.at_zero, abs(found.offset_frames))
        self.record(key, dict(zip(self.names, rows, strict=True)))
