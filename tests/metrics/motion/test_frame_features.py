"""Frames prepared as stated, and features of small networks of the published kinds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, ViTConfig, ViTModel

from hh_train.metrics.motion.frame_features import (
    ClipImageFeatures,
    DinoFeatures,
    FrameFeatures,
    TorchScriptFrameFeatures,
    prepare_frames,
)

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def noise(frames: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (frames, height, width, 3), generator=generator).to(torch.uint8)


@pytest.mark.parametrize(("crop", "shape"), [(False, (8, 12)), (True, (8, 8))])
def test_frames_keep_their_proportions_or_are_cut(crop: bool, shape: tuple[int, int]) -> None:
    frames = torch.full((2, 16, 24, 3), 51, dtype=torch.uint8)
    frames[..., 1] = 102
    found = prepare_frames(frames, size=8, crop=crop, mode="bicubic", mean=(0.1, 0.2, 0.0), std=(0.1, 0.2, 0.5))
    assert found.shape == (2, 3, *shape)
    assert found[0, :, 0, 0].tolist() == pytest.approx([1.0, 1.0, 0.4])
    assert float(found.std(dim=(2, 3)).max()) == pytest.approx(0.0, abs=1e-6)


def test_the_middle_is_cut_out_and_levels_are_whole() -> None:
    frames = torch.zeros(1, 4, 12, 3, dtype=torch.uint8)
    frames[:, :, 4:8] = 255
    plain = {"mode": "bilinear", "mean": (0.0,) * 3, "std": (1.0,) * 3}
    assert float(prepare_frames(frames, size=4, crop=True, **plain).min()) == 1.0
    small = prepare_frames(noise(1, 9, 9), size=5, crop=False, **plain) * 255
    assert torch.allclose(small, small.round(), atol=1e-4)


def test_a_scripted_network_sees_normalized_frames(networks_folder: Path) -> None:
    extractor = TorchScriptFrameFeatures(
        path=str(networks_folder / "color.pt"), size=8, mean=(0.0, 0.5, 0.0), std=(1.0, 1.0, 0.5), batch_size=2
    )
    assert isinstance(extractor, FrameFeatures)
    frames = torch.zeros(5, 16, 16, 3, dtype=torch.uint8)
    frames[3] = 255
    found = extractor.features(frames)
    assert found.shape == (5, 3)
    assert found[3].tolist() == pytest.approx([1.0, 0.5, 2.0]) and found[0].tolist() == pytest.approx([0.0, -0.5, 0.0])
    other = TorchScriptFrameFeatures(path=str(networks_folder / "color.pt"), size=16)
    assert extractor.fingerprint() != other.fingerprint()


def test_dino_gives_its_class_token_at_any_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ViTModel(ViTConfig(image_size=32, patch_size=8, **SMALL), add_pooling_layer=False).eval()
    model.save_pretrained(tmp_path)
    extractor = DinoFeatures(model=str(tmp_path), size=32, batch_size=2)
    square = noise(3, 32, 32)
    pixels = prepare_frames(
        square, size=32, crop=False, mode="bilinear", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    with torch.no_grad():
        wanted = model(pixel_values=pixels).last_hidden_state[:, 0]
    assert torch.allclose(extractor.features(square), wanted, atol=1e-5)
    assert float(wanted.std(dim=0).max()) > 1e-3
    assert extractor.features(noise(2, 48, 80)).shape == (2, 16)
    assert extractor.fingerprint().startswith("dino 32 ")


def test_clip_gives_its_projected_embedding(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = CLIPVisionConfig(image_size=32, patch_size=8, projection_dim=6, **SMALL)
    model = CLIPVisionModelWithProjection(config).eval()
    model.save_pretrained(tmp_path)
    extractor = ClipImageFeatures(model=str(tmp_path))
    found = extractor.features(noise(2, 40, 64))
    assert found.shape == (2, 6) and float((found[0] - found[1]).abs().max()) > 1e-4
    torch.nn.init.zeros_(model.visual_projection.weight)
    model.save_pretrained(tmp_path / "other")
    assert extractor.fingerprint() != ClipImageFeatures(model=str(tmp_path / "other")).fingerprint()
