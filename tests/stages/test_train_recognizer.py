"""Footage to recognizer: what is left out is told, a finished folder is kept, a half-finished one is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hh_train.data.media.files import write_clip
from hh_train.metrics.speech.recognizer import Recognizer
from hh_train.metrics.speech.recognizer_training import Utterance
from hh_train.stages import train_recognizer
from hh_train.types import Clip, ClipMetadata, Prompt

TONES = {"one": 350.0, "two": 1100.0, "three": 3200.0}


def sound(text: str) -> torch.Tensor:
    time = torch.arange(4000) / 16_000
    pieces = [torch.cat((0.3 * torch.sin(2 * torch.pi * TONES[w] * time), torch.zeros(1600))) for w in text.split()]
    return torch.nn.functional.pad(torch.cat(pieces), (800, 0))


def write(folder: Path, key: str, text: str | None, waveform: torch.Tensor | None) -> None:
    clip = Clip(
        frames=torch.full((25, 16, 16, 3), 90, dtype=torch.uint8),
        frames_per_second=25.0,
        waveform=waveform,
        samples_per_second=16_000,
    )
    write_clip(folder / f"{key}.mp4", clip)
    known = ClipMetadata(key=key, prompt=Prompt(description="A man."), transcript=text, language="en")
    (folder / f"{key}.json").write_text(json.dumps(known.to_json()))


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("footage")
    words = list(TONES)
    for split, count in (("train", 27), ("validation", 6), ("test", 6)):
        for i in range(count):
            text = " ".join((words[i % 3], words[i // 3 % 3], words[i // 9 % 3]))
            write(root / split, f"{split}-{i}", text, sound(text))
    write(root / "train", "silent", "one two", None)
    write(root / "train", "wordless", None, sound("one"))
    (root / "train" / "broken.mp4").write_bytes(b"no video")
    return root


def run(footage: Path, output: Path, **changed: int) -> Path:
    sizes = {"max_steps": 160, "batch_size": 16, "width": 48, "num_blocks": 2, "seed": 0} | changed
    return train_recognizer.run(footage=str(footage), output=str(output), max_seconds=None, **sizes)


def test_footage_to_recognizer(footage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(footage, tmp_path / "recognizer")
    recognizer = Recognizer.load(folder)
    assert recognizer.transcribe(sound("three one two"), "English").startswith("three one")
    floor = json.loads((folder / "floor.json").read_text())
    assert floor["fingerprint"] == recognizer.fingerprint() and floor["num_training_clips"] == 27
    for split in ("validation", "test"):
        score = floor[split]["en digits"]
        assert score["num_clips"] == 6 and score["mean"] < 0.1 and score["low"] <= score["mean"] <= score["high"]
    assert sorted(floor["left_out"]["train"]) == ["broken", "silent", "wordless"]
    printed = capsys.readouterr().out
    assert "train: 27 of 30 clips" in printed and "left out silent: has no sound" in printed and "floor" in printed

    weights = (folder / "model.safetensors").stat().st_mtime_ns
    run(footage, folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == weights
    assert "is finished and kept" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["recognizer"]


def test_an_unfinished_folder_is_trained_anew(footage: Path, tmp_path: Path) -> None:
    folder = tmp_path / "recognizer"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"half")
    run(footage, folder, max_steps=2, width=16, num_blocks=1)
    assert Recognizer.load(folder).config.width == 16


def test_no_usable_training_clip_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "train", "silent", "one two", None)
    with pytest.raises(ValueError, match=r"no training clip .* \(silent: has no sound\)"):
        run(tmp_path, tmp_path / "recognizer")


def test_an_oracle_has_no_floor_and_a_constant_a_high_one(monkeypatch: pytest.MonkeyPatch, footage: Path) -> None:
    spoken = [
        Utterance(key=str(i), waveform=sound("one"), transcript=f"one {w}", language="en") for i, w in enumerate(TONES)
    ]
    spoken.append(Utterance(key="text", waveform=sound("two"), transcript="the one", language="en"))
    recognizer = Recognizer.__new__(Recognizer)
    monkeypatch.setattr(
        Recognizer, "transcribe_batch", lambda self, waveforms, languages: [u.transcript.upper() for u in spoken]
    )
    oracle = train_recognizer.measure_floor(recognizer, spoken)
    assert {score["mean"] for score in oracle.values()} == {0.0}
    assert (oracle["en digits"]["num_clips"], oracle["en sentences"]["num_clips"]) == (3, 1)
    monkeypatch.setattr(Recognizer, "transcribe_batch", lambda self, waveforms, languages: ["nothing else"] * 4)
    assert train_recognizer.measure_floor(recognizer, spoken)["all"]["mean"] == 1.0
