"""Folders of real clips to a measurer: who is who, what is missing, and any number of processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hh_train.data.footage.files import find_footage
from hh_train.data.media.files import write_clip
from hh_train.metrics.faces.framed import FramedFaces
from hh_train.metrics.likeness.embedders import FaceLayout, VoiceProfile
from hh_train.metrics.likeness.measurer import LikenessMeasurer
from hh_train.stages.likeness_footage import likeness_of_folders
from hh_train.stages.measuring import Measuring, ScoredSystem, SystemClips
from hh_train.types import Clip

COLORS = {"ann": (220, 170, 140), "bob": (120, 80, 60), "cem": (240, 220, 210), "dee": (170, 60, 50)}


def write_clips(folder: Path, speaker: str, count: int, *, named: bool = True) -> Path:
    """Clips of one color and one tone, among other things."""
    folder.mkdir(parents=True, exist_ok=True)
    number = list(COLORS).index(speaker)
    for i in range(count):
        generator = torch.Generator().manual_seed(100 * number + i)
        frames = torch.randint(-9, 9, (9, 64, 64, 3), generator=generator) + torch.tensor(COLORS[speaker])
        noise = torch.randn(9 * 640, generator=generator)
        tone = torch.sin(torch.arange(9 * 640) * (0.1 + 0.3 * number))
        clip = Clip(
            frames=frames.clamp(0, 255).to(torch.uint8),
            frames_per_second=25.0,
            waveform=0.1 * tone + 0.02 * noise,
            samples_per_second=16_000,
        )
        path = folder / f"{speaker}-{i}.mp4"
        write_clip(path, clip)
        fields = {"key": path.stem, "description": "a head", "speaker": speaker if named else None}
        path.with_suffix(".json").write_text(json.dumps(fields))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("likeness")
    write_clips(root / "ann", "ann", 3)
    for speaker in COLORS:
        write_clips(root / "everyone", speaker, 2)
    write_clips(root / "unnamed", "ann", 2, named=False)
    return root


def measurer(person: Path, others: Path) -> LikenessMeasurer:
    return likeness_of_folders(person=str(person), others=str(others), face=FaceLayout(), voice=VoiceProfile())


def test_people_are_told_apart_by_their_names(folders: Path) -> None:
    found = measurer(folders / "ann", folders / "everyone")
    assert found.name == "ann" and set(found.others.paths) == {"bob", "cem", "dee"}
    assert len(found.person.paths["ann"]) == 3
    unnamed = measurer(folders / "unnamed", folders / "everyone")
    assert len(unnamed.person.paths["the person"]) == 2 and len(unnamed.others.paths) == 4


def test_missing_folders_and_too_few_people_are_named(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the likeness's person: .*nowhere does not exist"):
        measurer(tmp_path / "nowhere", folders / "everyone")
    with pytest.raises(ValueError, match=r"the likeness's others: .*nowhere does not exist"):
        measurer(folders / "ann", tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"clips of 0 people other than ann .*`speaker` in the json"):
        measurer(folders / "ann", folders / "ann")
    with pytest.raises(ValueError, match=r"clips of 4 people .*wanted one person's"):
        measurer(folders / "everyone", folders / "everyone")


def test_two_processes_measure_what_one_does(folders: Path, tmp_path: Path) -> None:
    files = {file.key: file for file in find_footage(folders / "everyone", held_out_share=0.0)}
    systems = [SystemClips(name="clips", folder="clips", files=files)]

    def measure(output: Path, process: int = 0, num_processes: int = 1) -> list[ScoredSystem] | None:
        return Measuring(
            truth=dict.fromkeys(files),
            measurers={"likeness": measurer(folders / "ann", folders / "everyone")},
            output=output,
            process=process,
            num_processes=num_processes,
            faces=FramedFaces(),
        ).measure(systems)

    alone = measure(tmp_path / "one")
    assert measure(tmp_path / "two", 1, 2) is None
    together = measure(tmp_path / "two", 0, 2)
    assert alone is not None and together is not None
    assert alone[0].by_key == together[0].by_key
    recognized = {key: clip.value("face_recognized") for key, clip in alone[0].by_key.items()}
    assert recognized == {key: float(key.startswith("ann")) for key in files}
    assert {key for key, clip in alone[0].by_key.items() if clip.value("voice_recognized")} == {"ann-0", "ann-1"}
