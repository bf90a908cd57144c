"""A generator that is small enough to be run in every test."""

from __future__ import annotations

import pytest
import torch

from hh_train.flow.guidance import Guidance
from hh_train.flow.solvers import RenoiseSolver
from hh_train.inference.generate import ClipGenerator
from hh_train.model.config import ModelConfig
from hh_train.model.transformer import SandwichTransformer
from hh_train.tokenizers import HashedTextTokenizer, MelAudioTokenizer, PatchVideoTokenizer, Tokenizers


@pytest.fixture(scope="session")
def tokenizers() -> Tokenizers:
    """Codecs of 3, 5 and 20 channels, fitted to noise; a video token is 16x16 pixels of a frame."""
    generator = torch.Generator().manual_seed(0)
    frames = [torch.randint(0, 256, (5, 16, 16, 3), generator=generator, dtype=torch.uint8) for _ in range(4)]
    waveforms = [0.1 * torch.randn(8_000, generator=generator) for _ in range(4)]
    video = PatchVideoTokenizer(channels=3)
    video.fit(frames)
    audio = MelAudioTokenizer(channels=5, phase_iterations=2)
    audio.fit(waveforms)
    return Tokenizers(video=video, audio=audio, text=HashedTextTokenizer(channels=20, place_channels=4))


@pytest.fixture
def generator(tokenizers: Tokenizers) -> ClipGenerator:
    """Two steps without guidance, in fp32. Weights are large enough for every input to show in the output."""
    torch.manual_seed(0)
    config = ModelConfig(
        num_layers=2, hidden_size=32, head_dim=16, num_query_groups=1, video_in_channels=12, audio_in_channels=5,
        text_in_channels=20, mm_layers=(0,), gelu7_layers=(0,),
    )  # fmt: skip
    model = SandwichTransformer(config=config, compute_dtype="float32")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    return ClipGenerator(
        model=model.eval(),
        solver=RenoiseSolver(num_steps=2),
        guidance=Guidance(),
        tokenizers=tokenizers,
        frames_per_second=25.0,
    )
