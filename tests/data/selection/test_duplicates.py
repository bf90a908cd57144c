"""Copies are found whatever was done to them; clips of the same scene are told apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hh_train.data.media.files import MediaReader, write_clip
from hh_train.data.selection.duplicates import DuplicateSearch, Fingerprint, fingerprint
from hh_train.types import Clip


def picture(seed: int, side: int = 96) -> Tensor:
    spots = torch.rand(1, 3, 7, 7, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(spots, size=(side, side), mode="bicubic").clamp(0, 1)[0]


def film(seed: int, num_frames: int = 25) -> Tensor:
    """A picture that turns into another."""
    start, end = picture(seed), picture(seed + 1000)
    weight = torch.linspace(0, 1, num_frames)[:, None, None, None]
    return ((start * (1 - weight) + end * weight).permute(0, 2, 3, 1) * 255).to(torch.uint8)


def speech(seed: int, num_frames: int = 25) -> Tensor:
    """Noise whose loudness goes up and down as that of syllables."""
    generator = torch.Generator().manual_seed(seed)
    loudness = torch.rand(1, 1, num_frames // 3, generator=generator)
    envelope = torch.nn.functional.interpolate(loudness, size=num_frames * 640, mode="linear")[0, 0]
    return 0.3 * envelope * torch.randn(num_frames * 640, generator=generator)


def clip(frames: Tensor, waveform: Tensor | None) -> Clip:
    return Clip(frames=frames, frames_per_second=25.0, waveform=waveform, samples_per_second=16_000)


def test_a_copy_in_worse_quality_and_smaller_is_found(tmp_path: Path) -> None:
    originals = [clip(film(seed), speech(seed)) for seed in range(6)]
    write_clip(tmp_path / "copy.mp4", originals[2], quality=38, sound_bit_rate=32_000)
    copy = MediaReader(size=(48, 48)).read(tmp_path / "copy.mp4")
    prints = [fingerprint(item) for item in (*originals, copy)]
    assert DuplicateSearch().originals(prints) == [None] * 6 + [2]


def test_one_scene_with_other_words_is_no_copy() -> None:
    prints = [fingerprint(clip(film(1), speech(seed))) for seed in range(8)]
    assert DuplicateSearch().originals(prints) == [None] * 8


def test_other_pictures_to_the_same_sound_are_no_copy() -> None:
    prints = [fingerprint(clip(film(seed), speech(1))) for seed in range(8)]
    assert DuplicateSearch().originals(prints) == [None] * 8


def test_silent_clips_are_compared_by_their_pictures() -> None:
    silence = torch.zeros(25 * 640)
    prints = [fingerprint(clip(film(3), sound)) for sound in (None, silence, speech(1))]
    assert [found.sound is None for found in prints] == [True, True, False]
    assert DuplicateSearch().originals(prints) == [None, 0, None]


def test_brightness_does_not_matter_and_cuts_do() -> None:
    dark = clip((film(4).float() * 0.7).to(torch.uint8), speech(4))
    late = clip(film(4, 49)[24:], speech(4, 49)[24 * 640 :])
    prints = [fingerprint(item) for item in (clip(film(4), speech(4)), dark, late)]
    assert DuplicateSearch().originals(prints) == [None, 0, None]


def test_a_picture_is_its_own_copy() -> None:
    prints = [fingerprint(clip(film(5)[:1], None))] * 3
    assert DuplicateSearch().originals(prints) == [None, 0, 0]


BITS = st.integers(0, 2**64 - 1)


@given(st.lists(BITS, min_size=4, max_size=4), st.sets(st.tuples(st.integers(0, 3), st.integers(0, 63)), max_size=60))
def test_the_bits_that_differ_are_averaged_over_the_pictures(values: list[int], flipped: set[tuple[int, int]]) -> None:
    others = list(values)
    for picture_index, bit in flipped:
        others[picture_index] ^= 1 << bit
    prints = [Fingerprint(pictures=tuple(numbers), sound=None) for numbers in (values, others)]
    found = DuplicateSearch(max_picture_bits=10).originals(prints)
    assert found == [None, 0 if len(flipped) <= 40 else None]


def test_copies_of_copies_lead_to_the_first() -> None:
    numbers = [0, 0b111111, 0b111111_000000, 0]
    prints = [Fingerprint(pictures=(number,) * 4, sound=(7, 7, 7, 7)) for number in numbers]
    assert DuplicateSearch(max_picture_bits=6).originals(prints) == [None, 0, 0, 0]


def test_nothing_gives_nothing() -> None:
    assert DuplicateSearch().originals([]) == []


def test_prints_survive_json() -> None:
    found = fingerprint(clip(film(6), speech(6)))
    assert Fingerprint.from_json(found.to_json()) == found


@pytest.mark.parametrize("arguments", [{"max_picture_bits": 64}, {"max_sound_bits": -1}])
def test_limits_that_make_no_sense_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="wanted"):
        DuplicateSearch(**arguments)
