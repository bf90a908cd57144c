"""The Wan codec with small random weights of the same classes: geometry, normalization, batches, tiles, references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hh_train.tokenizers import PretrainedTokenizer, VideoTokenizer, load_tokenizer, wan
from hh_train.tokenizers.wan import WanVideoTokenizer

MEAN = [0.1 * (channel - 24) / 24 for channel in range(48)]
SPREAD = [0.02 + 0.01 * channel / 48 for channel in range(48)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The structure of Wan 2.2's autoencoder, residual paths and 2x2 patches of pixels included, at a tenth width."""
    from diffusers import AutoencoderKLWan

    torch.manual_seed(0)
    model = AutoencoderKLWan(
        base_dim=8,
        decoder_base_dim=8,
        z_dim=48,
        dim_mult=[1, 2, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=MEAN,
        latents_std=SPREAD,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_temporal=4,
        scale_factor_spatial=16,
    )
    folder = tmp_path_factory.mktemp("wan")
    model.save_pretrained(folder / "vae")
    return folder


@pytest.fixture(scope="module")
def tokenizer(source: Path) -> WanVideoTokenizer:
    return WanVideoTokenizer(source=str(source), device="cpu")


def frames(num_frames: int, height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, num_frames, height // 16, width // 16, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (num_frames, height, width), mode="trilinear")
    return (smooth[0].permute(1, 2, 3, 0) * 255).to(torch.uint8)


def test_it_plays_its_role(tokenizer: WanVideoTokenizer) -> None:
    assert isinstance(tokenizer, VideoTokenizer)
    assert isinstance(tokenizer, PretrainedTokenizer)
    assert tokenizer.num_channels == 48
    assert tokenizer.stride == (4, 16, 16)
    assert not tokenizer.state_dict()


@pytest.mark.parametrize(("num_frames", "height", "width"), [(1, 256, 448), (5, 32, 32), (9, 48, 32)])
def test_latents_have_the_geometry_of_the_codec(
    tokenizer: WanVideoTokenizer, num_frames: int, height: int, width: int
) -> None:
    latent = tokenizer.encode(frames(num_frames, height, width))
    assert latent.shape == (48, (num_frames - 1) // 4 + 1, height // 16, width // 16)
    assert latent.dtype == torch.float32
    decoded = tokenizer.decode(latent)
    assert decoded.shape == (num_frames, height, width, 3)
    assert decoded.dtype == torch.uint8


def test_latents_are_the_normalized_mean_of_the_posterior(tokenizer: WanVideoTokenizer, source: Path) -> None:
    from diffusers import AutoencoderKLWan

    clip = frames(5, 32, 32)
    model = AutoencoderKLWan.from_pretrained(source / "vae").eval()
    with torch.no_grad():
        moments = model.encode(clip.permute(3, 0, 1, 2)[None].float() / 127.5 - 1).latent_dist.parameters[0]
    expected = (moments[:48] - torch.tensor(MEAN)[:, None, None, None]) / torch.tensor(SPREAD)[:, None, None, None]
    torch.testing.assert_close(tokenizer.encode(clip), expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.05  # the clip shows in it
    assert torch.equal(tokenizer.encode(clip), tokenizer.encode(clip))


def test_decoding_undoes_the_normalization(tokenizer: WanVideoTokenizer, source: Path) -> None:
    from diffusers import AutoencoderKLWan

    latent = torch.randn(48, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    model = AutoencoderKLWan.from_pretrained(source / "vae").eval()
    scaled = latent * torch.tensor(SPREAD)[:, None, None, None] + torch.tensor(MEAN)[:, None, None, None]
    with torch.no_grad():
        pixels = model.decode(scaled[None]).sample[0]
    expected = ((pixels + 1) * 127.5).permute(1, 2, 3, 0)
    assert expected.std() > 0.5
    torch.testing.assert_close(tokenizer.decode(latent).float(), expected, atol=0.51, rtol=0)


def test_the_first_latent_frame_sees_the_first_frame_alone(tokenizer: WanVideoTokenizer) -> None:
    clip = frames(5, 32, 32)
    other = clip.clone()
    other[1:] = 255 - other[1:]
    first, second = tokenizer.encode(clip), tokenizer.encode(other)
    torch.testing.assert_close(first[:, 0], second[:, 0])
    torch.testing.assert_close(first[:, :1], tokenizer.encode(clip[:1]), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(first[:, 1], second[:, 1], atol=1e-2)


def test_a_batch_gives_what_its_clips_give(tokenizer: WanVideoTokenizer) -> None:
    clips = [frames(5, 32, 32, 0), frames(1, 32, 48, 1), frames(5, 32, 32, 2)]
    for single, together in zip(map(tokenizer.encode, clips), tokenizer.encode_many(clips), strict=True):
        torch.testing.assert_close(together, single, atol=1e-4, rtol=1e-4)
    assert tokenizer.encode_many([]) == []


def test_a_batch_is_no_larger_than_a_frame_of_1080p(
    tokenizer: WanVideoTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wan, "BATCH_PIXELS", 2 * 32 * 32)
    clips = [frames(1, 32, 32, seed) for seed in range(5)] + [frames(1, 64, 64, 5)]
    sizes: list[int] = []
    encode = tokenizer.model.encode
    monkeypatch.setattr(tokenizer.model, "encode", lambda pixels: sizes.append(len(pixels)) or encode(pixels))
    latents = tokenizer.encode_many(clips)
    assert sizes == [2, 2, 1, 1]
    for clip, latent in zip(clips, latents, strict=True):
        torch.testing.assert_close(latent, tokenizer.encode(clip), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(192, 128), (64, 208)])
def test_tiles_give_what_the_whole_gives_roughly(
    source: Path, tokenizer: WanVideoTokenizer, height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiled = WanVideoTokenizer(source=str(source), device="cpu", tile_pixels=128)
    widths: list[int] = []
    monkeypatch.setattr(tiled.model.encoder.conv_in, "forward", _spy(tiled.model.encoder.conv_in.forward, widths))
    clip = frames(1, height, width)
    latent, whole = tiled.encode(clip), tokenizer.encode(clip)
    assert len(widths) > 1
    assert max(widths) == 64  # a tile of 128 pixels is 64 patches of 2
    assert latent.shape == whole.shape
    assert torch.corrcoef(torch.stack([latent.flatten(), whole.flatten()]))[0, 1] > 0.9
    decoded, expected = tiled.decode(whole).float(), tokenizer.decode(whole).float()
    assert decoded.shape == expected.shape
    assert (decoded - expected).abs().mean() < 0.5 * expected.std()


def _spy(function: Any, widths: list[int]) -> Any:
    def forward(values: Tensor, *rest: Any) -> Any:
        widths.append(max(values.shape[-2:]))
        return function(values, *rest)

    return forward


def test_small_frames_are_not_cut_into_tiles(source: Path, tokenizer: WanVideoTokenizer) -> None:
    tiled = WanVideoTokenizer(source=str(source), device="cpu", tile_pixels=128)
    clip = frames(1, 128, 64)
    assert torch.equal(tiled.encode(clip), tokenizer.encode(clip))
    with pytest.raises(ValueError, match="got tile_pixels 100; wanted a multiple of 64"):
        WanVideoTokenizer(source=str(source), device="cpu", tile_pixels=100).encode(clip)


def test_it_is_saved_by_reference(tokenizer: WanVideoTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, WanVideoTokenizer)
    assert loaded.fingerprint() == tokenizer.fingerprint()
    clip = frames(1, 32, 32)
    assert torch.equal(loaded.encode(clip), tokenizer.encode(clip))


def test_half_precision_is_near_and_another_codec(source: Path, tokenizer: WanVideoTokenizer) -> None:
    half = WanVideoTokenizer(source=str(source), device="cpu", dtype="bfloat16")
    clip = frames(1, 32, 32)
    latent = half.encode(clip)
    assert latent.dtype == torch.float32
    assert torch.corrcoef(torch.stack([latent.flatten(), tokenizer.encode(clip).flatten()]))[0, 1] > 0.99
    assert half.fingerprint() != tokenizer.fingerprint()
    assert WanVideoTokenizer(source=str(source), tile_pixels=512).fingerprint() != tokenizer.fingerprint()


@pytest.mark.parametrize("shape", [(4, 32, 32, 3), (0, 32, 32, 3), (5, 24, 32, 3), (5, 32, 40, 3), (5, 0, 32, 3)])
def test_frames_that_do_not_fit_are_told(tokenizer: WanVideoTokenizer, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"multiples? of"):
        tokenizer.encode(torch.zeros(shape, dtype=torch.uint8))


def test_latents_that_do_not_fit_are_told(tokenizer: WanVideoTokenizer) -> None:
    with pytest.raises(ValueError, match=r"got a video latent of shape \(16, 1, 2, 2\); wanted \[48, T, h, w\]"):
        tokenizer.decode(torch.zeros(16, 1, 2, 2))


def test_missing_weights_are_an_error(source: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    name = "diffusion_pytorch_model.safetensors"
    weights = load_file(source / "vae" / name)
    del weights["encoder.conv_in.weight"]
    save_file(weights, tmp_path / name)
    (tmp_path / "config.json").write_bytes((source / "vae" / "config.json").read_bytes())
    broken = WanVideoTokenizer(source=str(tmp_path), subfolder=None, device="cpu")
    with pytest.raises(ValueError, match=r"lacks 1 of the weights .*encoder\.conv_in\.weight"):
        broken.encode(frames(1, 32, 32))
