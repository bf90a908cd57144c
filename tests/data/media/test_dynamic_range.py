"""Known levels of light through PQ and HLG."""

from __future__ import annotations

import numpy as np
import pytest

from hh_train.data.media.dynamic_range import DeepPixels, to_standard_range

WHITE_PQ, WHITE_HLG = 0.5807, 0.75
"""Signals of reference white, 203 cd/m² (BT.2408, table 1)."""


def gray(*signals: float) -> DeepPixels:
    return np.rint(65535 * np.array(signals))[None, :, None].repeat(3, axis=2).astype(np.uint16)


@pytest.mark.parametrize(("is_hlg", "white"), [(False, WHITE_PQ), (True, WHITE_HLG)])
def test_white_is_near_the_top_and_black_is_black(is_hlg: bool, white: float) -> None:
    black, found, peak = to_standard_range(gray(0.0, white, 1.0), is_hlg=is_hlg)[0, :, 0].tolist()
    assert black == 0 and 240 <= found <= 250 and found < peak <= 255


@pytest.mark.parametrize("is_hlg", [False, True])
def test_more_light_is_never_darker(is_hlg: bool) -> None:
    shades = to_standard_range(gray(*np.linspace(0, 1, 200)), is_hlg=is_hlg)[0]
    assert (np.diff(shades[:, 0].astype(int)) >= 0).all() and len(np.unique(shades[:, 0])) > 80
    assert np.ptp(shades.astype(int), axis=1).max() <= 1, "gray stays gray"


def test_light_below_the_knee_is_kept() -> None:
    """18 % of white: PQ says 36.5 cd/m², a screen of gamma 2.4 shows 255 * 0.18 ** (1 / 2.4)."""
    nits = 0.18 * 203 / 10_000
    signal = ((0.8359375 + 18.8515625 * nits**0.1593017578125) / (1 + 18.6875 * nits**0.1593017578125)) ** 78.84375
    assert to_standard_range(gray(signal), is_hlg=False)[0, 0, 0] == pytest.approx(255 * 0.18 ** (1 / 2.4), abs=1)


def test_a_color_keeps_its_hue() -> None:
    pixels = np.array([[[50_000, 30_000, 20_000]]], dtype=np.uint16)
    red, green, blue = to_standard_range(pixels, is_hlg=False)[0, 0].tolist()
    assert red == 255 or red > green > blue
    assert red > 1.3 * blue
