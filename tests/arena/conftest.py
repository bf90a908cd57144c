"""Programs to vote on: of files that stand for clips, and of real clips."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hh_train.arena.contest import Contest, ControlPair, Program, Take
from hh_train.data.footage.clip_folder import write_described_clip
from hh_train.types import Clip, ClipMetadata, DialogueLine, Prompt

MakeProgram = Callable[..., Program]
WriteClip = Callable[..., Path]


@pytest.fixture
def make_program(tmp_path: Path) -> MakeProgram:
    """Contests of files whose bytes tell what they are; every clip lasts a second."""

    def make(*, systems: str = "abc", num_prompts: int = 4, num_controls: int = 2) -> Program:
        def take(name: str, source: str) -> Take:
            path = tmp_path / "clips" / f"{name}.mp4"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(f"{name} ".encode() * 100)
            return Take(path=path, seconds=1.0, source=source)

        contests = []
        for index in range(num_prompts):
            key = f"prompt-{index}"
            control = None
            if index < num_controls:
                control = ControlPair(in_time=take(f"{key}-in-time", f"{key}"), late=take(f"{key}-late", f"{key}"))
            takes = {name: take(f"{key}-{name}", f"{key}/{name}") for name in systems}
            contests.append(Contest(key=key, prompt=f"Say <{index}>", takes=takes, control=control))
        return Program(contests=tuple(contests))

    return make


def write_beeps(
    folder: Path,
    key: str,
    *,
    num_frames: int = 25,
    frames_per_second: float = 25.0,
    volume: float = 0.1,
    pitch: float = 300.0,
    words: str = "one two",
    seed: int | None = 0,
    silent: bool = False,
    shade: int = 200,
) -> Path:
    """A clip whose picture lights up in the second quarter of every second, while a tone sounds."""
    seconds = torch.arange(num_frames) / frames_per_second
    lit = ((seconds % 1.0) >= 0.25) & ((seconds % 1.0) < 0.5)
    frames = (40 + (shade - 40) * lit.float())[:, None, None, None].expand(num_frames, 32, 32, 3).to(torch.uint8)
    time = torch.arange(round(num_frames / frames_per_second * 16_000)) / 16_000
    on = ((time % 1.0) >= 0.25) & ((time % 1.0) < 0.5)
    waveform = volume * on * torch.sin(2 * math.pi * pitch * time)
    clip = Clip(
        frames=frames.contiguous(),
        frames_per_second=frames_per_second,
        waveform=None if silent else waveform,
        samples_per_second=16_000,
    )
    dialogue = (DialogueLine(speaker="Man", language="English", line=words),)
    metadata = ClipMetadata(
        key=key, prompt=Prompt(description="A light", dialogue=dialogue), transcript=words, language="en"
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_described_clip(folder, clip, metadata, record={} if seed is None else {"generation": {"seed": seed}})
    return folder / f"{key}.mp4"


@pytest.fixture(scope="session")
def write_beeping_clip() -> WriteClip:
    return write_beeps
