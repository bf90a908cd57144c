"""Pictures as RGB arrays: still images from files, and fitting any picture into a wanted size."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = NDArray[np.uint8]
"""[H, W, 3], red, green and blue."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 2**26
"""Of one picture (8192 x 8192); a file that claims more is damaged or no footage, and could exhaust the memory."""
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\x00", b"MM\x00*")
_EXIF_ORIENTATION = 0x0112
_QUARTER_TURNS = (5, 6, 7, 8)


class MediaError(ValueError):
    """A file that cannot be read as a clip; the message is the reason."""


def is_image(path: Path) -> bool:
    """Whether the first bytes are those of an image file, whatever its name says.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(16)
    return head.startswith(_SIGNATURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def check_size(width: int, height: int) -> None:
    """Raises MediaError when a picture has no or too many pixels."""
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise MediaError(f"has pictures of {width}x{height} pixels; wanted {MAX_PIXELS} pixels at the most")


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file, upright. Reads the header alone.

    Raises:
        MediaError: no image that can be read.
    """
    with _open(path) as image:
        width, height = image.size
        turned = image.getexif().get(_EXIF_ORIENTATION) in _QUARTER_TURNS
    return (width, height) if turned else (height, width)


def read_image(path: Path) -> Pixels:
    """An image file as [H, W, 3], upright. Transparent parts show white; 16-bit shades are cut to 8 bits.

    Raises:
        MediaError: no image that can be read.
    """
    try:
        with _open(path) as image:
            return _to_pixels(ImageOps.exif_transpose(image))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(f"cannot be read as media: {error}") from error


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path, formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise MediaError("cannot be read as media: a damaged image, or one of an unknown kind") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise MediaError(f"cannot be read as media: {error}") from error
    check_size(*image.size)
    return image


def _to_pixels(image: Image.Image) -> Pixels:
    if image.mode.startswith("I;16"):
        shades = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return np.ascontiguousarray(np.repeat(shades[:, :, None], 3, axis=2))
    if image.mode in ("I", "F"):
        raise MediaError(f"is an image of a kind that has no fixed range of shades ({image.mode})")
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        image = Image.alpha_composite(ground, picture)
    return np.array(image.convert("RGB"), dtype=np.uint8)


def resize_and_crop(pixels: Pixels, *, height: int, width: int) -> Pixels:
    """The largest central part of [H, W, 3] with the proportions of the wanted size, scaled to it."""
    rows, columns = pixels.shape[:2]
    scale = min(rows / height, columns / width)
    kept_rows, kept_columns = min(rows, round(height * scale)), min(columns, round(width * scale))
    top, left = (rows - kept_rows) // 2, (columns - kept_columns) // 2
    part = np.ascontiguousarray(
        pixels[top : top + max(1, kept_rows), left : left + max(1, kept_columns)]  # a line of pixels stays a line
    )
    method = cv2.INTER_AREA if scale >= 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(part, (width, height), interpolation=method), dtype=np.uint8)
