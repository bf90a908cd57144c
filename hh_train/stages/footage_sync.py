"""How far lips and sound of footage are apart: beyond doubt or not at all, as a filter wants it.

A filter throws clips away, so one match by chance is one clip lost. The offset of a clip counts only if the match is
better than sound of another clip reaches, is no value at the end of the search, and is the same in both halves.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from hh_train.data.media.faces import find_face
from hh_train.metrics.faces.mouth import track_mouth
from hh_train.metrics.sync.lip_sync import MAX_OFFSET_FRAMES, SyncMeasurement, measure_sync
from hh_train.types import Clip

_MARGIN = 0.25
_SMALLEST_SIDE = 32
_CERTAIN_PEAK = 0.55
"""Sound of other clips reaches up to 0.47 at some offset."""
_LARGEST_DISAGREEMENT_FRAMES = 1.5
_LEAST_FRAMES = 50


def offset_frames(clip: Clip) -> float | None:
    """Offset of the sound in frames, positive when it is early.

    None without a frontal face, moving lips or sound, for clips of fewer than 50 frames, and where lips and sound match
    at no offset beyond doubt.
    """
    num_frames = clip.frames.shape[0]
    if clip.waveform is None or num_frames < _LEAST_FRAMES:
        return None
    opening = _mouth_opening(clip)
    if opening is None:
        return None
    whole = _measure(clip, opening, 0, num_frames)
    halves = [_measure(clip, opening, first, first + num_frames // 2) for first in (0, num_frames // 2)]
    offsets = [found.offset_frames for found in (whole, *halves)]
    if whole.peak_correlation is None or whole.peak_correlation < _CERTAIN_PEAK or None in offsets:
        return None
    known = [offset for offset in offsets if offset is not None]
    agree = max(known) - min(known) <= _LARGEST_DISAGREEMENT_FRAMES
    is_inside = max(map(abs, known)) <= MAX_OFFSET_FRAMES - 1
    return whole.offset_frames if agree and is_inside else None


def _mouth_opening(clip: Clip) -> Float[Tensor, " F"] | None:
    """Of the largest face, whose surroundings are what the mouth is looked for in; None where there is none."""
    box = find_face(clip.frames)
    if box is None:
        return None
    left, top, right, bottom = box
    across, down = round(_MARGIN * (right - left)), round(_MARGIN * (bottom - top))
    head = clip.frames[:, max(0, top - down) : bottom + down, max(0, left - across) : right + across]
    return track_mouth(head).opening if min(head.shape[1:3]) >= _SMALLEST_SIDE else None


def _measure(clip: Clip, opening: Tensor, first: int, last: int) -> SyncMeasurement:
    """Of a stretch of frames."""
    assert clip.waveform is not None
    start, end = (round(frame * clip.samples_per_second / clip.frames_per_second) for frame in (first, last))
    return measure_sync(
        opening[first:last],
        clip.waveform[start:end],
        samples_per_second=clip.samples_per_second,
        frames_per_second=clip.frames_per_second,
    )
