"""How far lips and sound of a clip are apart, where it can be told beyond chance; otherwise that it cannot.

1. The mouth's signal adds three things that change when somebody speaks, each at unit spread: its opening, how much its
   picture moves, and how dark its inside is. On real faces each alone is weak, and they fail on different ones.
2. The sound's signal is the loudness of the band of voices.
3. Their correlation at every offset becomes a number of standard errors (Fisher). Neither signal is white, so that
   fewer values are independent than there are frames: n / (1 + 2 sum of the products of their autocorrelations)
   (Bartlett, "Some aspects of the time-correlation problem", 1935).
4. The best of many offsets is high by chance. In step counts what is better than chance at one of the few offsets near
   zero; an offset, what is better than chance at one of all.

Of 14 windows of four seconds of three real speakers this decides 7, and the three whole clips of 6 to 9 seconds, all
within two frames; of 196 pairs of a mouth and another speaker's sound it takes 2 for in step and 2 for apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from scipy.signal import butter, sosfiltfilt
from scipy.stats import norm
from torch import Tensor

from hh_train.metrics.faces.crops import mouth_crops
from hh_train.metrics.faces.head import mouth_of_face
from hh_train.metrics.faces.track import FaceTrack
from hh_train.metrics.sync.lip_sync import STEPS_PER_FRAME, loudness_track, why_undefined

LEAST_FRAMES = 50
"""Of a clip that is long enough to tell."""
LEVEL = 0.01
"""Share of clips that do not go together in which an offset may be found, by each of the two questions."""
MAX_OFFSET_FRAMES = 15
_NEAR_FRAMES = 3
_VOICE_HERTZ = (200.0, 3500.0)
_RANGE_DECADES = 3.5
_MOUTH_AT, _MOUTH_WIDTH = 0.8, 0.42
"""Where the mouth is: the part of the face's height down to it, its width as a part of the face's."""
_DARK_PERCENT = 5
_INSIDE = slice(12, 36)
_MEMORY_FRAMES = 30

Signal = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class OffsetFinding:
    """What a clip says about its sync."""

    offset_frames: float | None
    """Positive: the sound leads. None where it cannot be told."""
    reason: str | None = None
    """Why it cannot be told."""


def find_offset(
    frames: UInt8[Tensor, "F H W 3"],
    face: FaceTrack,
    waveform: Float[Tensor, " S"] | None,
    *,
    samples_per_second: int,
    frames_per_second: float,
) -> OffsetFinding:
    """The offset of the sound to the lips of a face, within 15 frames, to a quarter of a frame."""
    if frames.shape[0] < LEAST_FRAMES:
        return OffsetFinding(offset_frames=None, reason=f"fewer than {LEAST_FRAMES} frames")
    opening = mouth_of_face(frames, face).opening
    reason = why_undefined(opening, waveform)
    if waveform is None or reason is not None:
        return OffsetFinding(offset_frames=None, reason=reason)
    mouth = mouth_signal(frames, face, opening)
    track = voice_track(waveform, samples_per_second=samples_per_second, frames_per_second=frames_per_second)
    return decide_offset(mouth, track)


def mouth_signal(frames: UInt8[Tensor, "F H W 3"], face: FaceTrack, opening: Float[Tensor, " F"]) -> Signal:
    """What changes in the mouth when somebody speaks, [F]: opening, movement and darkness."""
    left, top, right, bottom = face.boxes.double().unbind(dim=1)
    middle = torch.stack(((left + right) / 2, top + _MOUTH_AT * (bottom - top)), dim=1)
    half = _MOUTH_WIDTH * (right - left)[:, None] / 2
    crops = mouth_crops(frames, torch.cat((middle - half, middle + half), dim=1).float()).numpy().astype(np.float64)
    crops -= crops.mean(axis=(1, 2), keepdims=True)
    steps = np.abs(np.diff(crops, axis=0)).mean(axis=(1, 2))
    moved = np.log1p(np.concatenate((steps[:1], (steps[1:] + steps[:-1]) / 2, steps[-1:])))
    dark = -np.percentile(crops[:, _INSIDE, _INSIDE].reshape(len(crops), -1), _DARK_PERCENT, axis=1)
    return _standard(opening.double().numpy()) + _standard(moved) + _standard(dark)


def voice_track(waveform: Float[Tensor, " S"], *, samples_per_second: int, frames_per_second: float) -> Signal:
    """Logarithm of the power in the band of voices, at quarters of frames; 3.5 decades below the loudest at least."""
    band = butter(4, _VOICE_HERTZ, "bandpass", fs=samples_per_second, output="sos")
    voice = torch.from_numpy(sosfiltfilt(band, waveform.double().numpy()).copy())
    track = loudness_track(voice, samples_per_second=samples_per_second, frames_per_second=frames_per_second)
    return track.clamp(min=float(track.max()) - _RANGE_DECADES).numpy().astype(np.float64)


def decide_offset(mouth: Signal, track: Signal) -> OffsetFinding:
    """The offset at which a mouth's signal, a value a frame, matches a sound's, four values a frame; or why not."""
    offsets, errors = matches(mouth, track)
    near = np.abs(offsets) <= _NEAR_FRAMES
    for among, num_frames in ((near, 2 * _NEAR_FRAMES + 1), (np.ones_like(near), 2 * MAX_OFFSET_FRAMES + 1)):
        best = int(np.where(among, errors, -np.inf).argmax())
        is_beyond_chance = norm.sf(errors[best]) * num_frames < LEVEL
        if is_beyond_chance and abs(offsets[best]) < MAX_OFFSET_FRAMES - 0.5:
            return OffsetFinding(offset_frames=float(offsets[best]))
    return OffsetFinding(offset_frames=None, reason="lips and sound match nowhere beyond chance")


def matches(mouth: Signal, track: Signal) -> tuple[Signal, Signal]:
    """Offsets in frames, and by how many standard errors the correlation there is above none."""
    reach = MAX_OFFSET_FRAMES * STEPS_PER_FRAME
    lags = np.arange(-reach, reach + 1)
    centers = np.arange(len(mouth)) * STEPS_PER_FRAME + STEPS_PER_FRAME // 2
    together = _autocorrelation(mouth) * _autocorrelation(track[STEPS_PER_FRAME // 2 :: STEPS_PER_FRAME][: len(mouth)])
    errors = np.zeros(len(lags))
    for index, lag in enumerate(lags):
        at = centers - lag
        inside = (at >= 0) & (at < len(track))
        count = int(inside.sum())
        correlation = float(_standard(mouth[inside]) @ _standard(track[at[inside]])) / count
        fading = np.clip(1 - np.arange(1, len(together) + 1) / count, 0, 1)
        independent = count / max(1.0, 1 + 2 * float(fading @ together))
        errors[index] = np.arctanh(np.clip(correlation, -0.999, 0.999)) * np.sqrt(max(independent - 3, 0.0))
    return lags / STEPS_PER_FRAME, errors


def _standard(values: Signal) -> Signal:
    spread = float(values.std())
    return (values - values.mean()) / spread if spread > 1e-9 else np.zeros_like(values)


def _autocorrelation(values: Signal) -> Signal:
    """From one frame apart on."""
    known = _standard(values)
    longest = min(_MEMORY_FRAMES, len(known) // 3)
    return np.array([float(known[lag:] @ known[:-lag]) / len(known) for lag in range(1, longest + 1)])
