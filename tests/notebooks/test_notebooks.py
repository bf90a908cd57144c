"""Every notebook runs from top to bottom."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient

from hh_train.data.media.files import write_clip
from hh_train.data.shards.manifest import Manifest
from hh_train.model.config import ModelConfig
from hh_train.model.transformer import SandwichTransformer
from hh_train.training.checkpoints import Provenance, export_checkpoint
from hh_train.types import Clip

REPOSITORY = Path(__file__).parents[2]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
REAL_CLIPS = REPOSITORY / "data" / "real_clips" / "generated"
SPOKEN_CLIPS = ("jwpIntro", "testMovie", "obama_speech")
STEPS = 4

Preparation = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture
def student(tiny_bundle: Path) -> Preparation:
    """A bundle of random weights where the quickstart's would lie."""

    def prepare(environment: pytest.MonkeyPatch) -> None:
        environment.setenv("HH_TRAIN_ROOT", str(tiny_bundle.parent))

    return prepare


@pytest.fixture
def teacher(tiny_shards: Path, shards_model: SandwichTransformer, tiny_config: ModelConfig, tmp_path: Path) -> Path:
    """A folder like the quickstart's, with shards and a checkpoint of random weights."""
    root = tmp_path / "quickstart"
    (root / "pretrain").mkdir(parents=True)
    (root / "shards").symlink_to(tiny_shards)
    manifest = Manifest.load(tiny_shards)
    assert shards_model.config == replace(tiny_config, text_in_channels=manifest.channels["text"])
    provenance = Provenance.of(manifest, stage="pretrain", num_steps=1)
    export_checkpoint(shards_model, root / "pretrain" / "model", provenance=provenance)
    return root


def write_spoken_clip(path: Path, *, seed: int) -> None:
    """Two seconds of a spot that moves to a tone, where no real clips are."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(60, 190, (1, 6, 8, 3), generator=generator, dtype=torch.uint8)
    frames = frames.repeat_interleave(8, 1).repeat_interleave(8, 2).repeat(50, 1, 1, 1)
    for i in range(50):
        frames[i, 20 : 24 + i % 5, 10:30] = 250
    waveform = 0.3 * torch.sin(torch.arange(32_000) * (0.05 + 0.02 * seed))
    write_clip(path, Clip(frames=frames, frames_per_second=25.0, waveform=waveform, samples_per_second=16_000))
    path.with_suffix(".txt").write_text("A spot moves.")


@pytest.fixture
def footage(teacher: Path, tmp_path: Path) -> Preparation:
    """A few steps from the small teacher, on real clips where they have been fetched."""

    def prepare(environment: pytest.MonkeyPatch) -> None:
        clips = tmp_path / "my clips"
        clips.mkdir()
        for index, name in enumerate(SPOKEN_CLIPS):
            if (REAL_CLIPS / f"{name}.mp4").is_file():
                for suffix in (".mp4", ".txt"):
                    shutil.copy(REAL_CLIPS / f"{name}{suffix}", clips)
            else:
                write_spoken_clip(clips / f"{name}.mp4", seed=index)
        environment.setenv("HH_TRAIN_ROOT", str(teacher))
        environment.setenv("HH_TRAIN_CLIPS", str(clips))
        environment.setenv("HH_TRAIN_MINE", str(tmp_path / "mine"))
        environment.setenv("HH_TRAIN_STEPS", str(STEPS))

    return prepare


PREPARED = {"play_with_the_student": "student", "custom_footage": "footage"}
"""Notebooks, and the fixtures that prepare what each is to find."""
MADE = {
    "play_with_the_student": ("clips/three.mp4",),
    "custom_footage": (
        "mine/finetune/adapter/comfyui.safetensors",
        "mine/evaluation/report.html",
        "mine/generated/mine/prompt.mp4",
    ),
}
NUM_PICTURES = {"play_with_the_student": 5, "custom_footage": 3}


def test_each_notebook_is_prepared() -> None:
    assert {path.stem for path in NOTEBOOKS} == set(PREPARED)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_without_outputs(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    assert not any(cell.get("outputs") for cell in cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(
    path: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    request.getfixturevalue(PREPARED[path.stem])(monkeypatch)
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # what a notebook has by itself
    shutil.copy(path, tmp_path)
    notebook = nbformat.read(tmp_path / path.name, as_version=4)
    NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for made in MADE[path.stem]:
        assert (tmp_path / made).stat().st_size > 1000
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= NUM_PICTURES[path.stem]
