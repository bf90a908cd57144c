"""Coordinates as the released models lay them, and rotations."""

from __future__ import annotations

import pytest
import torch

from hh_train.model.rope import RotaryBands, coordinates, rotate
from hh_train.types import ClipLayout

CLIP = ClipLayout(video=(3, 2, 4), audio=9, text=5)


def test_video_is_centred_in_space_and_starts_at_zero_in_time() -> None:
    axes = coordinates((CLIP,), "v2")[: CLIP.num_video]
    assert axes[:, 0].unique().tolist() == [0, 1, 2]
    assert axes[:, 1].unique().tolist() == [-0.5, 0.5]
    assert axes[:, 2].unique().tolist() == [-1.5, -0.5, 0.5, 1.5]


def test_v2_lays_four_audio_latents_on_a_video_latent_and_text_nowhere() -> None:
    axes = coordinates((CLIP,), "v2")
    assert axes[24:33, 0].tolist() == [index / 4 for index in range(9)]
    assert axes[33:].abs().max() == 0


def test_v1_lays_audio_on_the_clips_own_latents_and_text_on_the_unit_interval() -> None:
    axes = coordinates((ClipLayout(video=(5, 2, 2), audio=9, text=5),), "v1")
    assert axes[20:29, 0].tolist() == [index / 2 for index in range(9)]
    assert axes[29:, 0].tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_audio_that_is_not_4k_plus_1_is_compressed() -> None:
    axes = coordinates((ClipLayout(video=(0, 0, 0), audio=100, text=1),), "v2")
    torch.testing.assert_close(axes[99, 0], torch.tensor(24.0))


def test_clips_have_their_own_coordinates() -> None:
    assert torch.equal(coordinates((CLIP, CLIP), "v2"), coordinates((CLIP,), "v2").repeat(2, 1))


def test_v1_cannot_stretch_a_single_token() -> None:
    with pytest.raises(ValueError, match="one token cannot be stretched"):
        coordinates((ClipLayout(video=(3, 2, 2), audio=1, text=2),), "v1")


def test_rotation_keeps_lengths_and_depends_on_differences_alone() -> None:
    bands = RotaryBands(head_dim=16)
    q, k = torch.randn(2, 1, 1, 16)

    def product(q_at: float, k_at: float) -> torch.Tensor:
        rotated = [rotate(x, bands(torch.tensor([[at, 2 * at, -at]]))) for x, at in ((q, q_at), (k, k_at))]
        return (rotated[0] * rotated[1]).sum()

    torch.testing.assert_close(product(3.0, 1.0), product(7.0, 5.0))
    assert (product(3.0, 1.0) - product(3.0, 2.0)).abs() > 1e-4
    assert torch.equal(rotate(q, bands(torch.ones(1, 3)))[..., 12:], q[..., 12:])  # a quarter is not rotated


def test_bands_of_the_released_head_size() -> None:
    bands = RotaryBands(head_dim=128).bands
    assert bands.shape == (16,) and bands[0] == 1
    torch.testing.assert_close(bands[8], torch.tensor(0.01))
