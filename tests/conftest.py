"""What every test starts from: nothing reaches the network, and GPU tests say why they are skipped."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
from hypothesis import settings

from hh_train.model.config import ModelConfig
from hh_train.model.transformer import SandwichTransformer
from hh_train.types import LatentClip

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")

settings.register_profile("default", deadline=None, derandomize=True)  # a busy machine is no failure
settings.load_profile("default")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not on_gpu:
        return
    if not torch.cuda.is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and there is none"))


VIDEO_CHANNELS, AUDIO_CHANNELS, TEXT_CHANNELS = 3, 5, 7


@pytest.fixture
def tiny_config() -> ModelConfig:
    return ModelConfig(
        num_layers=4,
        hidden_size=32,
        head_dim=16,
        num_query_groups=1,
        video_in_channels=VIDEO_CHANNELS * 4,
        audio_in_channels=AUDIO_CHANNELS,
        text_in_channels=TEXT_CHANNELS,
        mm_layers=(0, 3),
        gelu7_layers=(0,),
    )


@pytest.fixture
def tiny_model(tiny_config: ModelConfig) -> SandwichTransformer:
    torch.manual_seed(0)
    model = SandwichTransformer(config=tiny_config, compute_dtype="float32")
    for parameter in model.parameters():  # a fresh model's output layers are zero and would hide every fault
        torch.nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def make_clip() -> Callable[..., LatentClip]:
    def make(
        key: str,
        *,
        video: tuple[int, int, int] | None = (2, 4, 2),
        audio: int | None = 5,
        text: int = 3,
        seed: int = 0,
        **given: object,
    ) -> LatentClip:
        generator = torch.Generator().manual_seed(seed)
        return LatentClip(
            key=key,
            video=None if video is None else torch.randn(VIDEO_CHANNELS, *video, generator=generator),
            audio=None if audio is None else torch.randn(audio, AUDIO_CHANNELS, generator=generator),
            text=torch.randn(text, TEXT_CHANNELS, generator=generator),
            **given,
        )

    return make
