"""What makes a clip unfit for training. Every filter is optional, looks at one decoded clip and tells its verdict."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from hh_train.types import Clip

_PICTURE_SIDE = 64
_FULL_SCALE = 0.999
_CLIPPED_RUN = 3
_SILENCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a filter says about a clip."""

    reason: str | None = None
    """Why the clip is left out, `<what it is>: <measure>`; None when it is kept."""
    remark: str | None = None
    """What is to be counted of a clip that is kept, to be read after `<number> clips`."""


@runtime_checkable
class ClipFilter(Protocol):
    """Judges one clip."""

    def judge(self, clip: Clip) -> Verdict: ...

    def settings(self) -> dict[str, Any]:
        """All that the judgment depends on, as plain JSON values."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Filter:
    def reason(self, clip: Clip) -> str | None:
        """Why the clip is left out, `<what it is>: <measure>`; None when it is kept."""
        raise NotImplementedError

    def judge(self, clip: Clip) -> Verdict:
        return Verdict(reason=self.reason(clip))

    def settings(self) -> dict[str, Any]:
        """All that the judgment depends on, as plain JSON values."""
        return asdict(self)


@runtime_checkable
class Offset(Protocol):
    """How far the sound is from the lips."""

    @property
    def offset_frames(self) -> float | None:
        """Positive: the sound is early. None where it cannot be told."""
        ...

    @property
    def reason(self) -> str | None:
        """Why it cannot be told."""
        ...


@runtime_checkable
class OffsetMeasure(Protocol):
    """Measures how far the sound of a clip is from the lips in it."""

    def __call__(self, clip: Clip) -> Offset: ...

    def settings(self) -> dict[str, Any]:
        """All that the offset depends on, as plain JSON values."""
        ...


@dataclass(frozen=True, kw_only=True)
class TooShort(_Filter):
    """A film of less than `min_seconds`. Single pictures stay."""

    min_seconds: float = 1.0

    def reason(self, clip: Clip) -> str | None:
        seconds = clip.frames.shape[0] / clip.frames_per_second
        if clip.frames.shape[0] == 1 or seconds >= self.min_seconds:
            return None
        return f"is too short: {seconds:.2f} seconds, wanted {self.min_seconds:g} at the least"


@dataclass(frozen=True, kw_only=True)
class Black(_Filter):
    """More than `max_share` of the frames are dark in nearly every pixel."""

    max_share: float = 0.5
    level: float = 24.0
    """Luma, 0 to 255, that counts as black. Video black is 16 in files that were tagged wrongly."""

    def reason(self, clip: Clip) -> str | None:
        bright = _gray(clip.frames).flatten(1).quantile(0.98, dim=1)
        share = float((bright < self.level).float().mean())
        return f"is black: {share:.0%} of the frames" if share > self.max_share else None


@dataclass(frozen=True, kw_only=True)
class Frozen(_Filter):
    """The picture stands still for more than `max_share` of the clip at a stretch. Single pictures are not judged."""

    max_share: float = 0.5
    tolerance: float = 0.3
    """Mean change from frame to frame, of 255, up to which a picture stands still."""

    def reason(self, clip: Clip) -> str | None:
        if clip.frames.shape[0] < 2:
            return None
        gray = _gray(clip.frames)
        still = (gray[1:] - gray[:-1]).abs().mean((1, 2)) <= self.tolerance
        share = _longest_run(still) / still.shape[0]
        return f"is frozen: still for {share:.0%} of the clip" if share > self.max_share else None


@dataclass(frozen=True, kw_only=True)
class Silent(_Filter):
    """The sound is below `level_dbfs`, or there is none. Single pictures are not judged."""

    level_dbfs: float = -60.0

    def reason(self, clip: Clip) -> str | None:
        if clip.frames.shape[0] == 1:
            return None
        if clip.waveform is None:
            return "is silent: no sound track"
        level = 10 * float(clip.waveform.double().square().mean().clamp_min(_SILENCE**2).log10())
        return f"is silent: {level:.0f} dB of full scale" if level < self.level_dbfs else None


@dataclass(frozen=True, kw_only=True)
class Clipped(_Filter):
    """More than `max_share` of the samples are in runs of three or more at full scale."""

    max_share: float = 0.001

    def reason(self, clip: Clip) -> str | None:
        if clip.waveform is None or clip.waveform.shape[0] < _CLIPPED_RUN:
            return None
        full = (clip.waveform >= _FULL_SCALE).float() - (clip.waveform <= -_FULL_SCALE).float()
        runs = full.unfold(0, _CLIPPED_RUN, 1).sum(1).abs() == _CLIPPED_RUN
        inside = torch.zeros(clip.waveform.shape[0], dtype=torch.bool)
        for shift in range(_CLIPPED_RUN):
            inside[shift : shift + runs.shape[0]] |= runs
        share = float(inside.float().mean())
        return f"is clipped: {share:.1%} of the sound is at full scale" if share > self.max_share else None


@dataclass(frozen=True, kw_only=True)
class OutOfSync:
    """Lips and sound are further apart than `max_frames`. Clips whose offset cannot be told stay, and are counted."""

    measure: OffsetMeasure
    max_frames: float = 3.0

    def judge(self, clip: Clip) -> Verdict:
        if clip.waveform is None or clip.frames.shape[0] < 2:
            return Verdict()
        found = self.measure(clip)
        if found.offset_frames is None:
            return Verdict(remark=f"stay though it cannot be told whether they are in sync: {found.reason}")
        if abs(found.offset_frames) <= self.max_frames:
            return Verdict()
        side = "early" if found.offset_frames > 0 else "late"
        return Verdict(reason=f"is out of sync: the sound is {abs(found.offset_frames):.1f} frames {side}")

    def settings(self) -> dict[str, Any]:
        """All that the judgment depends on, as plain JSON values."""
        return {"max_frames": self.max_frames, "measure": self.measure.settings()}


def _gray(frames: UInt8[Tensor, "F H W 3"]) -> Float[Tensor, "F h w"]:
    """Luma, 0 to 255, on a grid of at most 64 x 64 areas."""
    height, width = (min(_PICTURE_SIDE, side) for side in frames.shape[1:3])
    pictures = (frame.cpu().numpy() for frame in frames)
    small = np.stack([cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA) for picture in pictures])
    return torch.from_numpy(small).float() @ torch.tensor([0.299, 0.587, 0.114])


def _longest_run(flags: Bool[Tensor, " N"]) -> int:
    longest = current = 0
    for flag in flags.tolist():
        current = current + 1 if flag else 0
        longest = max(longest, current)
    return longest
