"""Images as they are meant to be seen, and pictures fitted into a size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hh_train.data.media.pictures import (
    MAX_PIXELS,
    MediaError,
    check_size,
    image_size,
    is_image,
    read_image,
    resize_and_crop,
)

SHADES = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(6, 4, 3) * 3


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp"])
def test_lossless_images_come_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(SHADES).save(path, **({"lossless": True} if suffix == "webp" else {}))
    assert is_image(path)
    assert (read_image(path) == SHADES).all()
    assert image_size(path) == (6, 4)


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, SHADES),
        (2, SHADES[:, ::-1]),
        (3, SHADES[::-1, ::-1]),
        (4, SHADES[::-1]),
        (5, SHADES.transpose(1, 0, 2)),
        (6, np.rot90(SHADES, k=-1)),
        (7, SHADES[::-1, ::-1].transpose(1, 0, 2)),
        (8, np.rot90(SHADES, k=1)),
    ],
)
def test_images_are_turned_upright(tmp_path: Path, orientation: int, turned: np.ndarray) -> None:
    tags = Image.Exif()
    tags[0x0112] = orientation
    Image.fromarray(SHADES).save(tmp_path / "a.png", exif=tags)
    assert (read_image(tmp_path / "a.png") == turned).all()
    assert image_size(tmp_path / "a.png") == turned.shape[:2]


def test_what_is_transparent_shows_white(tmp_path: Path) -> None:
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = (200, 100, 50, 255)
    rgba[0, 1] = (200, 100, 50, 0)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0].tolist() == [[200, 100, 50], [255, 255, 255]]


def test_sixteen_bits_are_cut_to_eight(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 0x1234], [0x80FF, 0xFFFF]], np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[:, :, 1].tolist() == [[0, 0x12], [0x80, 0xFF]]


def test_what_is_too_large_is_refused_before_it_is_decoded() -> None:
    check_size(8192, MAX_PIXELS // 8192)
    for size in ((8192, MAX_PIXELS // 8192 + 1), (0, 100), (100, -1)):
        with pytest.raises(MediaError, match="pixels"):
            check_size(*size)


def test_a_wide_picture_is_cropped_about_its_center() -> None:
    pixels = np.zeros((40, 120, 3), np.uint8)
    pixels[:, 40:80] = (255, 0, 0)
    square = resize_and_crop(pixels, height=20, width=20)
    assert square.shape == (20, 20, 3)
    assert (square == (255, 0, 0)).all()
    tall = resize_and_crop(np.ascontiguousarray(pixels.transpose(1, 0, 2)), height=30, width=60)
    assert tall.shape == (30, 60, 3)
    assert (tall[5:-5] == (255, 0, 0)).all()


def test_a_line_of_pixels_can_be_fitted_too() -> None:
    assert resize_and_crop(np.full((1, 4096, 3), 7, np.uint8), height=48, width=64).tolist() == [[[7] * 3] * 64] * 48
