"""Mouths cut out for lip readers: gray, one size, held still."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

CROP_SIZE = 48
_AROUND = 1.2
"""Side of a crop over the width of the mouth's box: chin and cheeks move too."""
_SMOOTHING_FRAMES = 1.0


def mouth_crops(
    frames: UInt8[Tensor, "F H W 3"], boxes: Float[Tensor, "F 4"], *, size: int = CROP_SIZE
) -> UInt8[Tensor, "F {size} {size}"]:
    """The squares about a mouth's boxes (fractions of the frame), of one size for the whole clip, scaled to `size`.

    Their centers are smoothed, so that a detector's trembling does not look like speech; where a square leaves the
    frame, the frame's edge is repeated.
    """
    _, height, width, _ = frames.shape
    pixels = boxes.double().numpy() * np.array([width, height, width, height])
    side = max(_AROUND * float(np.median(pixels[:, 2] - pixels[:, 0])), 1.0)
    centers = np.stack(((pixels[:, 0] + pixels[:, 2]) / 2, (pixels[:, 1] + pixels[:, 3]) / 2), axis=1)
    corners = gaussian_filter1d(centers, _SMOOTHING_FRAMES, axis=0, mode="nearest") - side / 2
    step = side / size
    crops = np.empty((len(corners), size, size), np.uint8)
    for frame, corner, crop in zip(frames.cpu().numpy(), corners, crops, strict=True):
        # centers of the crop's pixels to places in the frame
        to_frame = np.array([[step, 0, corner[0] + step / 2 - 0.5], [0, step, corner[1] + step / 2 - 0.5]])
        gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        if step > 2:  # many pixels to one: smooth first, or lines turn into dots
            gray = cv2.GaussianBlur(gray, (0, 0), step / 3)
        crop[:] = cv2.warpAffine(
            gray, to_frame, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
        )
    return torch.from_numpy(crops)
