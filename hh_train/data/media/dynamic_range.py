"""Pictures of high dynamic range to the standard range that models and players know.

Transfer functions: Rec. ITU-R BT.2100 (PQ and HLG, the latter shown on a screen of 1000 cd/m²); primaries: BT.2087;
white: 203 cd/m² as of BT.2408; what is brighter is compressed, with its color kept, above a knee.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorTrc
from numpy.typing import NDArray

from hh_train.data.media.pictures import Pixels

DeepPixels = NDArray[np.uint16]
"""[H, W, 3], red, green and blue, of 0 to 65535."""

_WHITE = 203.0
_SCREEN = 1000.0
_KNEE = 0.8
_DISPLAY_GAMMA = 2.4
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], dtype=np.float32)
_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], dtype=np.float32
)


def is_high_range(frame: VideoFrame) -> bool:
    """Whether a frame's values are those of PQ or HLG."""
    return frame.color_trc in (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)


def to_standard_range(pixels: DeepPixels, *, is_hlg: bool) -> Pixels:
    """BT.2020 pixels in PQ or HLG to BT.709 pixels of 8 bits."""
    light = _light(is_hlg)[pixels]
    if is_hlg:
        light *= _SCREEN / _WHITE * np.maximum(light @ _LUMINANCE, 1e-6)[..., None] ** 0.2
    light = np.maximum(light @ _TO_BT709.T, 0.0)
    brightest = np.maximum(light.max(axis=-1, keepdims=True), 1e-6)
    over = np.maximum(brightest - _KNEE, 0.0) / (1 - _KNEE)
    light *= np.where(over > 0, _KNEE + (1 - _KNEE) * (1 - np.exp(-over)), brightest) / brightest
    return np.asarray(np.rint(255 * light ** (1 / _DISPLAY_GAMMA)), dtype=np.uint8)


@lru_cache(maxsize=2)
def _light(is_hlg: bool) -> NDArray[np.float32]:
    """Linear light of each of the 65536 values: of the scene, 0 to 1, for HLG; of the screen, in whites, for PQ."""
    signal = np.linspace(0.0, 1.0, 2**16)
    if is_hlg:
        a = 0.17883277
        b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    else:
        m1, m2 = 2610 / 16384, 2523 / 4096 * 128
        c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
        root = signal ** (1 / m2)
        light = 10_000 / _WHITE * (np.maximum(root - c1, 0.0) / (c2 - c3 * root)) ** (1 / m1)
    return np.asarray(light, dtype=np.float32)
