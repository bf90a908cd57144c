"""What every test starts from: nothing reaches the network, and GPU tests say why they are skipped."""

from __future__ import annotations

import functools
import gc
import json
import math
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from hh_train.data.media.files import write_clip
from hh_train.flow.guidance import Guidance
from hh_train.flow.solvers import RenoiseSolver
from hh_train.inference.bundle import Geometry, write_bundle
from hh_train.inference.generate import ClipGenerator
from hh_train.model.config import ModelConfig
from hh_train.model.transformer import SandwichTransformer
from hh_train.tokenizers import HashedTextTokenizer, MelAudioTokenizer, PatchVideoTokenizer, Tokenizers
from hh_train.types import Clip, DialogueLine, LatentClip, Prompt

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")

settings.register_profile(  # a busy machine is no failure
    "default", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("default")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not on_gpu:
        return
    if not torch.cuda.is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and there is none"))


_REAL_CLIPS = Path(__file__).parents[1] / "data" / "real_clips" / "generated"


@pytest.fixture(scope="session")
def real_clip() -> Callable[[str], Path]:
    """The file of a clip of data/real_clips; the test is skipped where it has not been fetched."""

    def find(name: str) -> Path:
        path = _REAL_CLIPS / f"{name}.mp4"
        if not path.is_file():
            pytest.skip(f"the real clip {path.name} is missing: run scripts/fetch_test_footage.sh")
        return path

    return find


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
    for parameter in model.parameters():  # a fresh model's norms and biases are zero and would hide faults
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


SHARD_TEXT_CHANNELS = 20


def write_talking_bar(path: Path, index: int, *, num_frames: int = 9) -> None:
    """A clip of 32x32 pixels with its caption: a gray bar that moves to a tone, both of their own for each index."""
    columns = torch.arange(32)
    frames = torch.zeros(num_frames, 32, 32, 3, dtype=torch.uint8)
    for i in range(num_frames):
        frames[i] = (128 + 100 * torch.sin(columns / (2 + index % 3) + 0.3 * i)).to(torch.uint8)[None, :, None]
    time = torch.arange(num_frames * 640) / 16_000
    waveform = 0.3 * torch.sin(2 * math.pi * (200 + 100 * index) * time)
    write_clip(path, Clip(frames=frames, frames_per_second=25.0, waveform=waveform, samples_per_second=16_000))
    dialogue = (DialogueLine(speaker="Man", language="English", line=f"number {index}"),)
    prompt = Prompt(description="A bar moves", dialogue=dialogue, background_sound="a tone")
    path.with_suffix(".txt").write_text(prompt.compose())


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training, two validation and two test clips of 9 frames, tokenized to 3, 5 and 20 channels."""
    from hh_train.stages import tokenize

    folder = tmp_path_factory.mktemp("tiny")
    for split, count in (("train", 6), ("validation", 2), ("test", 2)):
        for index in range(count):
            write_talking_bar(folder / "footage" / split / f"{split}-{index}.mp4", index)
    tokenize.run(
        footage=str(folder / "footage"),
        output=str(folder / "shards"),
        video=PatchVideoTokenizer(channels=VIDEO_CHANNELS),
        audio=MelAudioTokenizer(channels=AUDIO_CHANNELS, phase_iterations=2),
        text=HashedTextTokenizer(channels=SHARD_TEXT_CHANNELS, place_channels=4),
        size=(32, 32),
        max_frames=9,
        reconstruct_clips=1,
        num_workers=2,
    )
    return folder / "shards"


@pytest.fixture
def shards_model(tiny_config: ModelConfig) -> SandwichTransformer:
    """A model for `tiny_shards`."""
    torch.manual_seed(0)
    model = SandwichTransformer(
        config=replace(tiny_config, text_in_channels=SHARD_TEXT_CHANNELS), compute_dtype="float32"
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model


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


@pytest.fixture
def tiny_bundle(generator: ClipGenerator, tmp_path: Path) -> Path:
    """An inference bundle of random weights."""
    geometry = Geometry(num_frames=25, size=(32, 32))
    return write_bundle(tmp_path / "bundle", generator, geometry=geometry, prompt="A woman.", seed=0)


@dataclass(frozen=True)
class Allocations:
    """Bytes that the CPU's allocator has handed out since a step began and not taken back."""

    kept: int
    """Between the forward and the backward pass."""
    peak: int


MIDDLE = "between the passes"


@pytest.fixture
def memory_events(tmp_path: Path) -> Callable[[Callable[[], object]], tuple[list[int], int]]:
    """Runs a function; what the CPU's allocator reports meanwhile, buffers of kernels included.

    The bytes it has handed out since the start, after every change, and how many of the changes came before MIDDLE.
    """

    def record(function: Callable[[], object]) -> tuple[list[int], int]:
        gc.collect()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            function()
        profile.export_chrome_trace(str(tmp_path / "trace.json"))
        events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
        middle = [event["ts"] for event in events if event.get("name") == MIDDLE] or [0]
        changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]")
        return list(accumulate(change for _, change in changes)), sum(time < middle[0] for time, _ in changes)

    return record


@pytest.fixture
def allocations(
    memory_events: Callable[[Callable[[], object]], tuple[list[int], int]],
) -> Callable[[Callable[[], torch.Tensor]], Allocations]:
    """Computes a loss, and propagates it back."""

    def measure(loss: Callable[[], torch.Tensor]) -> Allocations:
        def both() -> None:
            value = loss()
            with torch.profiler.record_function(MIDDLE):
                pass
            value.backward()

        levels, middle = memory_events(both)
        return Allocations(kept=levels[middle - 1], peak=max(levels))

    return measure


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture(scope="session")
def tiny_shards_url(tiny_shards: Path) -> Iterator[str]:
    """`tiny_shards` behind a web server that knows no byte ranges and lists no folders as storage would."""
    handler = functools.partial(_QuietHandler, directory=str(tiny_shards))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
