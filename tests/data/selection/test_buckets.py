"""Which size and length a clip gets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hh_train.data.media.pictures import resize_and_crop
from hh_train.data.selection.buckets import Buckets, buckets_of_ratios, crop_share

SIZES = ((256, 448), (448, 256), (352, 352))


@pytest.mark.parametrize(
    ("height", "width", "wanted"),
    [
        (1080, 1920, (256, 448)),
        (1920, 1080, (448, 256)),
        (1000, 1000, (352, 352)),
        (1080, 1350, (352, 352)),
        (800, 1920, (256, 448)),
        (720, 1280, (256, 448)),
    ],
)
def test_a_picture_goes_where_it_loses_least(height: int, width: int, wanted: tuple[int, int]) -> None:
    assert Buckets(sizes=SIZES).size_for(height, width) == wanted


def test_of_equal_proportions_the_largest_that_does_not_enlarge_is_taken() -> None:
    buckets = Buckets(sizes=((90, 160), (180, 320), (360, 640)))
    assert buckets.size_for(240, 426) == (180, 320)
    assert buckets.size_for(360, 640) == (360, 640)
    assert buckets.size_for(45, 80) == (90, 160)


def test_limits_name_what_was_too_much() -> None:
    buckets = Buckets(sizes=((256, 448),), max_crop=0.3, max_enlargement=1.5)
    with pytest.raises(ValueError, match=r"fits no bucket: 500x1000 would lose 7\d%.*at most 30%"):
        buckets.size_for(1000, 500)
    with pytest.raises(ValueError, match=r"is too small: 160x90 would be enlarged 2\.8 times"):
        buckets.size_for(90, 160)
    assert buckets.size_for(180, 320) == (256, 448)


@given(st.integers(16, 4000), st.integers(16, 4000))
def test_no_other_size_loses_less(height: int, width: int) -> None:
    chosen = Buckets(sizes=SIZES).size_for(height, width)
    assert crop_share(height, width, chosen) <= min(crop_share(height, width, size) for size in SIZES) + 1e-6


@pytest.mark.parametrize(("height", "width"), [(120, 200), (200, 120), (97, 131)])
def test_the_share_is_what_the_reader_crops(height: int, width: int) -> None:
    """Marks at the edges: those within the kept part survive the crop, those outside do not."""
    import numpy as np

    kept = 1 - crop_share(height, width, (64, 64))
    side = min(height, width)
    assert kept == pytest.approx(side * side / (height * width))
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : (width - side) // 2] = 255
    pixels[: (height - side) // 2] = 255
    assert resize_and_crop(pixels, height=64, width=64).max() <= 16


def test_lengths_are_the_longest_that_are_filled() -> None:
    buckets = Buckets(sizes=SIZES, frames=(25, 49, 101))
    assert [buckets.length_for(n) for n in (24, 25, 48, 49, 100, 101, 500)] == [None, 25, 25, 49, 49, 101, 101]
    assert Buckets(sizes=SIZES).length_for(77) == 77


def test_ratios_become_sizes_of_equal_area() -> None:
    buckets = buckets_of_ratios(ratios=["16:9", "9:16", "1:1"], pixels=256 * 448, multiple=32, frames=[25])
    assert buckets.sizes == SIZES
    assert buckets.frames == (25,)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([16, 32]))
def test_sizes_are_multiples_near_the_area_and_the_ratio(wide: int, high: int, multiple: int) -> None:
    pixels = 600_000
    ((height, width),) = buckets_of_ratios(ratios=[f"{wide}:{high}"], pixels=pixels, multiple=multiple).sizes
    assert height % multiple == width % multiple == 0
    exact = ((pixels * high / wide) ** 0.5, (pixels * wide / high) ** 0.5)
    assert all(
        abs(side - wanted) <= max(multiple, wanted * 0) for side, wanted in zip((height, width), exact, strict=True)
    )


@pytest.mark.parametrize("ratio", ["16x9", "16", "0:9", "a:b", "16:0", "-1:2"])
def test_what_is_no_ratio_is_told(ratio: str) -> None:
    with pytest.raises(ValueError, match="width:height"):
        buckets_of_ratios(ratios=[ratio], pixels=100_000)


@pytest.mark.parametrize(
    "arguments",
    [
        {"sizes": ()},
        {"sizes": ((0, 32),)},
        {"sizes": SIZES, "frames": (0,)},
        {"sizes": SIZES, "max_crop": 1.5},
        {"sizes": SIZES, "max_enlargement": 0.5},
    ],
)
def test_buckets_that_make_no_sense_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="wanted"):
        Buckets(**arguments)  # type: ignore[arg-type]


def test_an_area_below_one_multiple_is_refused() -> None:
    with pytest.raises(ValueError, match="1024 or more"):
        buckets_of_ratios(ratios=["1:1"], pixels=1000, multiple=32)
