"""Closed forms against the models themselves, and against the released model's published arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch

from hh_train.data.packing import pack
from hh_train.model.config import ModelConfig
from hh_train.model.modality import ModalityLinear
from hh_train.model.size import ClipShape, forward_flops, layer_parameters, parameter_counts, product_parameters
from hh_train.model.transformer import SandwichTransformer
from hh_train.runtime.composition import compose_config, config_folder
from hh_train.runtime.config import instantiate
from hh_train.types import ClipLayout, LatentClip

PRESETS = sorted(path.stem for path in (config_folder() / "model").glob("*.yaml"))


@cache
def preset(name: str) -> ModelConfig:
    return instantiate(compose_config("pretrain", [f"model={name}"]).module.model.config)


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_are_those_of_the_model(name: str) -> None:
    config = preset(name)
    with torch.device("meta"):
        model = SandwichTransformer(config=config)
    counts = parameter_counts(config)

    def size(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    assert counts.total == size(model)
    assert counts.adapter == size(model.adapter)
    assert counts.modality_layers == sum(size(layer) for layer in model.layers if layer.per_modality)
    assert counts.shared_layers == sum(size(layer) for layer in model.layers if not layer.per_modality)
    for index, layer in enumerate(model.layers):
        assert layer_parameters(config, index) == size(layer)
        products = [module for module in layer.modules() if isinstance(module, ModalityLinear)]
        assert product_parameters(config, index) == sum(size(p) // p.num_experts for p in products)


def test_parameters_of_the_released_model() -> None:
    counts = parameter_counts(preset("sandwich_15b"))
    assert counts.total == 15_299_419_136
    assert counts.active_in_layers == 10_913_064_960
    assert counts.adapter == 19_676_160
    assert counts.modality_layers == 3_274_140_672 + 3_273_894_912
    assert counts.shared_layers == 8_730_386_432
    assert counts.final == 1_320_960
    assert layer_parameters(preset("sandwich_15b"), 4) == 272_824_576


@pytest.mark.parametrize(
    ("size", "seconds", "tokens", "teraflops", "attention_share"),
    [
        ((256, 448), 4.0, 3_313, 244, 0.11),
        ((256, 448), 5.0, 4_010, 302, 0.13),
        ((512, 896), 5.0, 14_762, 1_502, 0.36),
        ((1088, 1920), 5.0, 65_706, 14_910, 0.71),
    ],
)
def test_training_a_clip_of_the_released_model(
    size: tuple[int, int], seconds: float, tokens: int, teraflops: float, attention_share: float
) -> None:
    """The known figures: 6 operations per active parameter and token, 12 per layer, channel and pair of tokens."""
    config = preset("sandwich_15b")
    layout = ClipShape(size=size, seconds=seconds).layout(config.patch)
    assert layout.num_tokens == tokens
    ours = 3 * forward_flops(config, [layout])
    attention = 12 * 40 * 5120 * tokens**2
    assert ours == pytest.approx(6 * 10_913_064_960 * tokens + attention, rel=1e-4)
    assert ours / 1e12 == pytest.approx(teraflops, rel=0.003)
    assert attention / ours == pytest.approx(attention_share, abs=0.005)


def test_local_attention_saves_operations() -> None:
    """32 of 40 layers see up to 23 of 32 latent frames: 604 of 1024 pairs of frames."""
    layout = ClipShape(size=(1088, 1920), seconds=5.0).layout((1, 2, 2))
    everywhere, local = preset("sandwich_15b"), preset("sandwich_15b_sr_1080p")
    saved = forward_flops(everywhere, [layout]) - forward_flops(local, [layout])
    seen = sum(min(frame + 11, 31) - max(frame - 11, 0) + 1 for frame in range(32))
    assert seen == 604
    assert saved == 4 * 5120 * 32 * (1024 - seen) * 2040**2


def test_the_model_counts_the_same(
    tiny_model: SandwichTransformer, tiny_config: ModelConfig, make_clip: Callable[..., LatentClip]
) -> None:
    batch = pack([make_clip("a"), make_clip("b", audio=9)], patch=(1, 2, 2))
    assert tiny_model.forward_flops(batch) == forward_flops(tiny_config, batch.layouts) > 0


def test_what_the_codecs_make_of_a_clip() -> None:
    shape = ClipShape(size=(256, 448), seconds=4.0)
    assert (shape.num_frames, shape.layout((1, 2, 2))) == (101, ClipLayout((26, 8, 14), 101, 300))
    assert shape.layout((2, 1, 1)) == ClipLayout((13, 16, 28), 101, 300)
    silent = replace(shape, audio_latents_per_second=0.0, text_tokens=7)
    assert silent.layout((1, 2, 2)) == ClipLayout((26, 8, 14), 0, 7)
    picture = replace(silent, seconds=0.0)
    assert picture.layout((1, 2, 2)) == ClipLayout((1, 8, 14), 0, 7)
    other = ClipShape(size=(64, 64), seconds=1.5, frames_per_second=24.0, video_stride=(1, 8, 8))
    assert other.layout((1, 2, 2)) == ClipLayout((37, 4, 4), 39, 300)


def test_a_size_that_cannot_be_cut_is_told_with_the_nearest_that_can() -> None:
    with pytest.raises(ValueError, match=r"272 x 448 pixels .* nearest size is 256 x 448"):
        ClipShape(size=(272, 448), seconds=4.0).layout((1, 2, 2))
    with pytest.raises(ValueError, match=r"26 latent frames .* a multiple of 4"):
        ClipShape(size=(256, 448), seconds=4.0).layout((4, 2, 2))
