"""Geometry, causality and round trips of the patch codec."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hh_train.tokenizers.video import PatchVideoTokenizer


def noise_clip(num_frames: int = 9, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num_frames, 8, 12, 3), generator=generator, dtype=torch.uint8)


def smooth_clip(seed: int) -> Tensor:
    """Nine frames of 8 x 12 pixels in which a ramp brightens: few components hold it."""
    slope, start, speed = torch.rand(3, generator=torch.Generator().manual_seed(seed)) * torch.tensor([8.0, 60.0, 8.0])
    ramp = torch.arange(12.0)[None, None, :, None] * slope + torch.arange(9.0)[:, None, None, None] * speed + start
    return ramp.expand(9, 8, 12, 3).round().clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def lossless() -> PatchVideoTokenizer:
    """As many channels as a patch has values."""
    tokenizer = PatchVideoTokenizer(channels=4 * 4 * 4 * 3, stride=(4, 4, 4))
    tokenizer.fit(noise_clip(33, seed) for seed in range(20))
    return tokenizer


@pytest.mark.parametrize(("num_frames", "latent_frames"), [(1, 1), (5, 2), (9, 3), (21, 6)])
def test_geometry(lossless: PatchVideoTokenizer, num_frames: int, latent_frames: int) -> None:
    latent = lossless.encode(noise_clip(num_frames))
    assert latent.shape == (192, latent_frames, 2, 3)
    assert lossless.decode(latent).shape == (num_frames, 8, 12, 3)


def test_all_channels_give_the_clip_back(lossless: PatchVideoTokenizer) -> None:
    clip = noise_clip(9, seed=99)
    difference = lossless.decode(lossless.encode(clip)).int() - clip.int()
    assert difference.abs().max() <= 1


def test_few_channels_keep_smooth_clips() -> None:
    tokenizer = PatchVideoTokenizer(channels=4, stride=(4, 4, 4))
    tokenizer.fit(smooth_clip(seed) for seed in range(50))
    clip = smooth_clip(1000)
    assert (tokenizer.decode(tokenizer.encode(clip)).float() - clip.float()).abs().mean() < 1.5
    assert clip.float().std() > 5


def test_latents_see_no_later_frame(lossless: PatchVideoTokenizer) -> None:
    clip, changed = noise_clip(13), noise_clip(13)
    changed[5:] = 255 - changed[5:]
    before, after = lossless.encode(clip), lossless.encode(changed)
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert (before[:, 2:] - after[:, 2:]).abs().max() > 0.1


def test_the_first_latent_frame_is_that_of_the_first_frame_alone(lossless: PatchVideoTokenizer) -> None:
    clip = noise_clip(9)
    torch.testing.assert_close(lossless.encode(clip)[:, :1], lossless.encode(clip[:1]))


def test_a_place_in_the_latent_is_a_place_in_the_picture(lossless: PatchVideoTokenizer) -> None:
    clip, changed = noise_clip(5), noise_clip(5)
    changed[1:, 4:, 8:] = 0
    moved = (lossless.encode(clip) - lossless.encode(changed)).abs().amax(0)
    assert moved.gt(1e-3).nonzero().tolist() == [[1, 1, 2]]


@pytest.mark.parametrize(
    ("shape", "message"), [((8, 8, 12, 3), "multiple of 4 plus 1"), ((9, 10, 12, 3), "multiples of 4 and 4")]
)
def test_names_the_size_that_does_not_fit(lossless: PatchVideoTokenizer, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        lossless.encode(torch.zeros(shape, dtype=torch.uint8))


def test_decode_names_the_channels_that_it_wants(lossless: PatchVideoTokenizer) -> None:
    with pytest.raises(ValueError, match="192"):
        lossless.decode(torch.zeros(3, 2, 2, 2))


def test_asks_to_be_fitted() -> None:
    with pytest.raises(ValueError, match="fit"):
        PatchVideoTokenizer().encode(torch.zeros(5, 8, 8, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="fit"):
        PatchVideoTokenizer().fingerprint()


def drifting_clip(seed: int) -> Tensor:
    """A strong still texture, and a weak one that flickers."""
    generator = torch.Generator().manual_seed(seed)
    still = 40 * torch.randn(1, 8, 8, 3, generator=generator)
    flicker = 12 * torch.randn(33, 1, 1, 1, generator=generator).expand(33, 8, 8, 3)
    return (128 + still + flicker).round().clamp(0, 255).to(torch.uint8)


def test_motion_weight_spends_channels_on_what_changes() -> None:
    def error_of_change(motion_weight: float) -> float:
        tokenizer = PatchVideoTokenizer(channels=12, stride=(4, 4, 4), motion_weight=motion_weight)
        tokenizer.fit(drifting_clip(seed) for seed in range(30))
        clip = drifting_clip(1000)
        difference = tokenizer.decode(tokenizer.encode(clip)).float() - clip.float()
        return float(difference.diff(dim=0).square().mean() / clip.float().diff(dim=0).square().mean())

    assert error_of_change(4.0) < 0.5 * error_of_change(1.0)


def test_motion_weight_is_positive() -> None:
    with pytest.raises(ValueError, match="motion_weight"):
        PatchVideoTokenizer(motion_weight=0.0)


def test_stride_has_three_numbers() -> None:
    with pytest.raises(ValueError, match="three"):
        PatchVideoTokenizer(stride=(4, 8))
