"""Footage to lip reader: what is left out is told, a finished folder is kept, a half-finished one is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from hh_train.data.media.files import MediaReader, write_clip
from hh_train.metrics.faces.framed import FramedFaces
from hh_train.metrics.faces.track import FaceTrack
from hh_train.metrics.lips.lip_network import LipNetwork
from hh_train.metrics.lips.training import SpokenMouth
from hh_train.metrics.measurer import Sample
from hh_train.stages import train_lip_reader
from hh_train.types import Clip, ClipMetadata, Prompt

SHAPES = {"wide": (0.2, 0.03), "tall": (0.07, 0.16)}


def speaking_head(words: list[str], *, light: float = 1.0) -> torch.Tensor:
    """Frames of a head whose mouth takes each word's shape."""
    sizes = [(0.12, 0.01)] * 3
    for word in words:
        wide, tall = SHAPES[word]
        for part in np.sin(np.linspace(0.3, np.pi - 0.3, 6)):
            sizes.append((0.12 + (wide - 0.12) * part, 0.01 + (tall - 0.01) * part))
        sizes += [(0.12, 0.01)] * 2
    sizes += [(0.12, 0.01)] * (1 + (-len(sizes)) % 4)
    y, x = np.mgrid[0:64, 0:64] / 64
    frames = []
    for wide, tall in sizes:
        picture = np.full((64, 64, 3), (90, 140, 110), np.float64)
        picture[((x - 0.5) / 0.34) ** 2 + ((y - 0.5) / 0.45) ** 2 < 1] = (215, 170, 140)
        picture[((x - 0.5) / wide) ** 2 + ((y - 0.7) / tall) ** 2 < 1] = (110, 25, 35)
        frames.append(picture * light)
    return torch.from_numpy(np.stack(frames).astype(np.uint8))


def write(folder: Path, key: str, text: str | None, frames: torch.Tensor) -> None:
    clip = Clip(frames=frames, frames_per_second=25.0, waveform=None, samples_per_second=16_000)
    write_clip(folder / f"{key}.mp4", clip)
    known = ClipMetadata(key=key, prompt=Prompt(description="A man."), transcript=text, language="en")
    (folder / f"{key}.json").write_text(json.dumps(known.to_json()))


class FacesInLight(FramedFaces):
    """Knows no face in the dark."""

    def find(self, frames: torch.Tensor) -> FaceTrack | None:
        return super().find(frames) if float(frames.float().mean()) > 60 else None


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("footage")
    for split, count in (("train", 24), ("validation", 4), ("test", 4)):
        for i in range(count):
            words = [list(SHAPES)[i % 2], list(SHAPES)[i // 2 % 2]]
            write(root / split, f"{split}-{i}", " ".join(words), speaking_head(words, light=0.8 + 0.01 * i))
    write(root / "train", "wordless", None, speaking_head(["wide"]))
    write(root / "train", "dark", "wide", speaking_head(["wide"], light=0.1))
    (root / "train" / "broken.mp4").write_bytes(b"no video")
    return root


def run(footage: Path, output: Path, **changed: int) -> Path:
    sizes = {"max_steps": 120, "batch_size": 8, "width": 48, "num_blocks": 2, "seed": 0} | changed
    return train_lip_reader.run(
        footage=str(footage), output=str(output), faces=FacesInLight(), max_seconds=None, **sizes
    )


def test_footage_to_lip_reader(footage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(footage, tmp_path / "lip_reader")
    reader = LipNetwork.load(folder)
    floor = json.loads((folder / "floor.json").read_text())
    assert floor["fingerprint"] == reader.fingerprint() and floor["num_training_clips"] == 24
    for split in ("validation", "test"):
        score = floor[split]["en"]
        assert score["num_clips"] == 4 and score["mean"] < 0.3 and score["low"] <= score["mean"] <= score["high"]
    assert reader.floor == floor["test"]["all"]["mean"]
    clip = MediaReader().read(footage / "test" / "test-1.mp4")
    crops = Sample(key="a", clip=clip, transcript=None, language=None, faces=FacesInLight()).crops()
    assert reader.read(crops, "en").startswith("tall")
    assert sorted(floor["left_out"]["train"]) == ["broken", "dark", "wordless"]
    printed = capsys.readouterr().out
    assert "train: 24 of 27 clips" in printed and "left out dark: no face" in printed and "floor" in printed

    weights = (folder / "model.safetensors").stat().st_mtime_ns
    run(footage, folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == weights
    assert "is finished and kept" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["lip_reader"]


def test_an_unfinished_folder_is_trained_anew(footage: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lip_reader"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"half")
    run(footage, folder, max_steps=2, width=16, num_blocks=1)
    assert LipNetwork.load(folder).config.width == 16


def test_no_usable_training_clip_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "train", "dark", "wide", speaking_head(["wide"], light=0.1))
    with pytest.raises(ValueError, match=r"no training clip .* \(dark: no face was found"):
        run(tmp_path, tmp_path / "lip_reader")


def test_an_oracle_has_no_floor_and_a_constant_a_high_one() -> None:
    class Oracle:
        languages = ("en",)
        crop_size = 48

        def __init__(self, texts: list[str]) -> None:
            self.texts = iter(texts)

        def read(self, crops: torch.Tensor, language: str) -> str:
            return next(self.texts)

        def fingerprint(self) -> str:
            return "oracle"

    crops = torch.zeros(5, 48, 48, dtype=torch.uint8)
    said = ["one two", "two one", "one one"]
    mouths = [SpokenMouth(key=str(i), crops=crops, transcript=text, language="en") for i, text in enumerate(said)]
    oracle = train_lip_reader.measure_floor(Oracle([text.upper() for text in said]), mouths)
    assert {score["mean"] for score in oracle.values()} == {0.0} and oracle["en"]["num_clips"] == 3
    assert train_lip_reader.measure_floor(Oracle(["six six"] * 3), mouths)["all"]["mean"] == 1.0
