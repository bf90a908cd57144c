"""How far lips and sound of footage are apart, for the filter that leaves out what is out of sync."""

from __future__ import annotations

from typing import Any

from hh_train.metrics.faces.cascade import CascadeFaces
from hh_train.metrics.faces.track import LEAST_COVERAGE, FaceFinder
from hh_train.metrics.sync.offset import OffsetFinding, find_offset
from hh_train.types import Clip


class LipOffset:
    """The offset of a clip's sound to the lips of its largest face.

    Args:
        faces: finds the face; None looks for frontal ones by OpenCV's cascades, without weights.
    """

    def __init__(self, *, faces: FaceFinder | None = None) -> None:
        self.faces: FaceFinder = CascadeFaces() if faces is None else faces

    def settings(self) -> dict[str, Any]:
        """All that the offset depends on, as plain JSON values."""
        return {"faces": self.faces.fingerprint()}

    def __call__(self, clip: Clip) -> OffsetFinding:
        """In frames, positive when the sound is early; or why it cannot be told."""
        face = self.faces.find(clip.frames)
        if face is None or face.coverage < LEAST_COVERAGE:
            return OffsetFinding(offset_frames=None, reason="no face in half of the frames")
        return find_offset(
            clip.frames,
            face,
            clip.waveform,
            samples_per_second=clip.samples_per_second,
            frames_per_second=clip.frames_per_second,
        )
