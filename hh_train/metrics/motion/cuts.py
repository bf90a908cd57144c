"""Cuts in a clip, and how many its prompt asks for.

Cuts are found by PySceneDetect's adaptive detector: a change that stands out from the changes around it, so that a
moving camera is none.
"""

from __future__ import annotations

import re
from itertools import pairwise

import cv2
from jaxtyping import UInt8
from torch import Tensor

_SHORTEST_SHOT_SECONDS = 0.2
_LARGEST_SIDE = 256
_FRAMING = re.compile(
    r"\b(?:extreme |big )?(?:close[- ]?up|(?:medium|wide|long|full|establishing|over-the-shoulder)"
    r"(?: close[- ]?up| long)? shot)\b"
)
_NUMBERED = re.compile(r"(?:\b(?:shot|scene)\s*|镜头|鏡頭)(\d+|[一二三四五六七八九十])")
_CUT = re.compile(r"\b(?:hard |jump |smash )?cuts? (?:back )?(?:to|into)\b|\[(?:cut|scene cut)\]|切换到|切換到|切至")
_CHAIN = re.compile(r",?\s*(?:and )?then (?:to )?(?:an? )?")


def count_cuts(frames: UInt8[Tensor, "F H W 3"], *, frames_per_second: float) -> int:
    """Hard cuts in a decoded clip. A shot is at least 0.2 s long."""
    from scenedetect.common import FrameTimecode  # type: ignore[import-untyped]
    from scenedetect.detectors import AdaptiveDetector  # type: ignore[import-untyped]

    detector = AdaptiveDetector(min_scene_len=max(round(_SHORTEST_SHOT_SECONDS * frames_per_second), 1))
    scale = min(1.0, _LARGEST_SIDE / max(frames.shape[1:3]))
    cuts = 0
    time = FrameTimecode(0, fps=frames_per_second)
    for index, frame in enumerate(frames.cpu().numpy()):
        small = frame if scale == 1 else cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        time = FrameTimecode(index, fps=frames_per_second)
        cuts += len(detector.process_frame(time, cv2.cvtColor(small, cv2.COLOR_RGB2BGR)))
    return cuts + len(detector.post_process(time))


def prompt_shots(description: str) -> int:
    """How many shots a prompt's description asks for; 1 where it speaks of none.

    It counts, and takes the most of: numbered shots or scenes ("Shot 2:"), cuts that are called so ("cut to"), and
    framings in a row ("Close-up, then medium shot of ...").
    """
    text = description.lower()
    numbered = len(set(_NUMBERED.findall(text)))
    called = len(_CUT.findall(text))
    return max(1, numbered, called + 1, _framings_in_a_row(text))


def _framings_in_a_row(text: str) -> int:
    """The longest chain of framings that "then" joins."""
    framings = list(_FRAMING.finditer(text))
    longest = chain = min(len(framings), 1)
    for before, after in pairwise(framings):
        joined = _CHAIN.fullmatch(text[before.end() : after.start()]) is not None
        chain = chain + 1 if joined else 1
        longest = max(longest, chain)
    return longest
