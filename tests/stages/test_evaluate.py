"""Folders in, scores out: known systems get known scores, and bad clips are told and counted.

The sound of a clip is one tone a word, so that a stand-in for the recognizer hears exactly what is in the file.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hh_train.data.media.files import write_clip
from hh_train.metrics.speech.recognizer import Recognizer, RecognizerConfig, build_vocabulary
from hh_train.stages import evaluate
from hh_train.types import Clip, ClipMetadata, DialogueLine, Prompt

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
FRAMES, PART = 25, 6400
SAID = {f"test-{i:02}": f"{WORDS[i % 10]} {WORDS[(3 * i + 1) % 10]}" for i in range(8)}


class Ear(Recognizer):
    """Reads the tones."""

    def __init__(self) -> None:
        characters, languages = build_vocabulary([(" ".join(WORDS), "en")])
        super().__init__(config=RecognizerConfig(characters=characters, languages=languages, width=8, num_blocks=1))

    def transcribe(self, waveform: torch.Tensor, language: str | None = None) -> str:
        heard = []
        for part in waveform[: 2 * PART].split(PART):
            spectrum = torch.fft.rfft(part).abs()
            if float(spectrum.max()) > 5:
                heard.append(WORDS[round(float(spectrum.argmax()) * 16_000 / PART / 200) - 2])
        return " ".join(heard)


def tones(text: str) -> torch.Tensor:
    time = torch.arange(PART) / 16_000
    parts = [0.2 * torch.sin(2 * torch.pi * 200 * (WORDS.index(word) + 2) * time) for word in text.split()]
    return torch.nn.functional.pad(torch.cat(parts), (0, FRAMES * 640 - len(parts) * PART))


def write(folder: Path, key: str, says: str, *, fields: dict[str, Any] | None = None, bright: int = 0) -> None:
    """A moving gray square that 'says' something, in the layout of footage and of generated clips."""
    frames = np.full((FRAMES, 64, 64, 3), 60 + bright, np.uint8)
    for i in range(FRAMES):
        frames[i, 38:50, 24:40] = 60 + bright + 5 * (i % 8)
    clip = Clip(
        frames=torch.from_numpy(frames), frames_per_second=25.0, waveform=tones(says), samples_per_second=16_000
    )
    write_clip(folder / f"{key}.mp4", clip)
    line = DialogueLine(speaker="Man", language="English", line=SAID[key])
    prompt = Prompt(description="A man.", dialogue=(line,))
    known = ClipMetadata(key=key, prompt=prompt, transcript=SAID[key], language="en")
    (folder / f"{key}.txt").write_text(prompt.compose())
    (folder / f"{key}.json").write_text(json.dumps(known.to_json() | (fields or {})))


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real clips; a teacher that says all; a student that misses second words, is brighter, and lacks two prompts."""
    root = tmp_path_factory.mktemp("evaluate")
    cost = {"generation": {"seconds": 2.0, "num_function_evaluations": 64}}
    for i, (key, text) in enumerate(SAID.items()):
        write(root / "real", key, text)
        write(root / "teacher", key, text, fields=cost)
        if i < 6:
            first = text.split()[0]
            write(root / "student", key, f"{first} {first}", fields=cost, bright=40)
    (root / "teacher" / "other.mp4").write_bytes((root / "teacher" / "test-00.mp4").read_bytes())
    return root


@pytest.fixture(autouse=True)
def ear(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    one = Ear()
    monkeypatch.setattr(Recognizer, "load", classmethod(lambda cls, folder: one))


def evaluated(footage: Path, output: Path, systems: dict[str, str], **changed: Any) -> dict[str, Any]:
    arguments = {
        "systems": systems,
        "reference": str(footage / "real"),
        "recognizer": "",
        "output": str(output),
        "train_logs": {},
        "max_clips": None,
        "seed": 0,
    }
    page = evaluate.run(**(arguments | changed))
    assert page == output / "report.html" and page.stat().st_size < 10_000_000
    results: dict[str, Any] = json.loads((output / "results.json").read_text())
    return results


def folders(footage: Path, *names: str) -> dict[str, str]:
    return {name: str(footage / name) for name in names}


def test_known_systems_get_known_scores(
    footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "no run")
    results = evaluated(footage, tmp_path, folders(footage, "teacher", "student"), train_logs={"pretrain": missing})
    real, teacher, student = (results["systems"][name] for name in ("real", "teacher", "student"))
    assert real["scores"]["error_rate"]["mean"] == teacher["scores"]["error_rate"]["mean"] == 0.0
    wrong = [len(set(text.split())) - 1 for text in list(SAID.values())[:6]]
    assert student["scores"]["error_rate"]["mean"] == pytest.approx(sum(wrong) / 12)
    assert (teacher["num_clips"], student["num_clips"]) == (8, 6)
    assert teacher["scores"]["num_function_evaluations"]["mean"] == 64
    assert "seconds" not in real["scores"]
    brighter = student["differences"]["pixel_mean"]
    assert brighter["mean"] == pytest.approx(40 / 255, abs=0.01) and brighter["num_clips"] == 6
    assert brighter["is_significant"] and student["differences"]["error_rate"]["is_significant"]
    assert not teacher["differences"] and not real["differences"]
    assert results["base"] == "teacher" and len(results["protocol"]["fingerprint"]) == 16
    assert any("different prompts (teacher 8, student 6 of 8)" in note for note in results["notes"])
    printed = capsys.readouterr().out
    assert "is worse than" in printed and "mishears 0.0%" in printed
    page = (tmp_path / "report.html").read_text()
    assert "holds no metrics.csv" in page and page.count("<video") >= 20

    with (tmp_path / "clips.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 + 8 + 6
    one = next(r for r in rows if (r["system"], r["key"]) == ("student", "test-03"))
    assert one["heard"] == "three three" and float(one["errors"]) == 1.0

    def never(*_: object, **__: object) -> None:
        raise AssertionError("measured twice")

    monkeypatch.setattr(evaluate, "measure_clip", never)
    again = evaluated(footage, tmp_path, folders(footage, "teacher", "student"))
    assert again["systems"] == results["systems"]
    write(footage / "student", "test-00", SAID["test-00"], bright=41)
    with pytest.raises(AssertionError, match="measured twice"):
        evaluated(footage, tmp_path, folders(footage, "teacher", "student"))


def test_bad_clips_are_counted_listed_and_gain_nothing(
    footage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for key, text in SAID.items():
        write(tmp_path / "system", key, text)
    (tmp_path / "system" / "test-00.mp4").write_bytes(b"this is no video")
    (tmp_path / "system" / "test-01.json").write_text("{")
    fields = json.loads((tmp_path / "system" / "test-02.json").read_text())
    (tmp_path / "system" / "test-02.json").write_text(json.dumps(fields | {"transcript": "nine nine"}))
    results = evaluated(footage, tmp_path / "out", {"system": str(tmp_path / "system")})
    system = results["systems"]["system"]
    assert sorted(system["failures"]) == ["test-00", "test-01", "test-02"]
    assert "was made to say 'nine nine'" in system["failures"]["test-02"]
    rate = system["scores"]["error_rate"]
    assert (rate["mean"], rate["num_clips"], rate["num_failed"]) == (pytest.approx(3 / 8), 8, 3)
    assert system["scores"]["pixel_mean"]["num_clips"] == 5
    assert "unreadable system/test-00" in capsys.readouterr().out
    assert "test-01" in (tmp_path / "out" / "report.html").read_text()


def test_a_constant_voice_scores_near_one(footage: Path, tmp_path: Path) -> None:
    for key in SAID:
        write(tmp_path / "constant", key, "nine nine")
    results = evaluated(footage, tmp_path / "out", {"constant": str(tmp_path / "constant")})
    assert results["systems"]["constant"]["scores"]["error_rate"]["mean"] > 0.8


def test_max_clips_takes_the_prompts_that_all_have(footage: Path, tmp_path: Path) -> None:
    results = evaluated(footage, tmp_path, folders(footage, "teacher", "student"), max_clips=4)
    assert {s["num_clips"] for s in results["systems"].values()} == {4}
    assert results["systems"]["student"]["differences"]["flow"]["num_clips"] == 4


def test_clips_without_transcripts_are_scored_on_the_rest(footage: Path, tmp_path: Path) -> None:
    for key, text in list(SAID.items())[:3]:
        write(tmp_path / "real", key, text)
        (tmp_path / "real" / f"{key}.json").unlink()
        (tmp_path / "real" / f"{key}.txt").write_text("A man.")
    results = evaluated(footage, tmp_path / "out", folders(footage, "teacher"), reference=str(tmp_path / "real"))
    assert "error_rate" not in results["systems"]["teacher"]["scores"]
    assert results["systems"]["teacher"]["scores"]["flow"]["num_clips"] == 3
    assert any("3 clips have no transcript" in note for note in results["notes"])


@pytest.mark.parametrize(
    ("systems", "changed", "message"),
    [
        ({}, {}, "name one or more"),
        ({"real": "real"}, {}, "none 'real'"),
        ({"teacher": "nowhere"}, {}, "system 'teacher'.*does not exist"),
        ({"teacher": "teacher"}, {"reference": "elsewhere"}, "elsewhere does not exist"),
        ({"strange": "strange"}, {}, "system 'strange': none of the 1 clips"),
        ({"teacher": "teacher"}, {"max_clips": 0}, "got max_clips 0"),
    ],
)
def test_mistakes_are_told(
    footage: Path, tmp_path: Path, systems: dict[str, str], changed: dict[str, Any], message: str
) -> None:
    (footage / "strange").mkdir(exist_ok=True)
    (footage / "strange" / "other.mp4").write_bytes(b"")
    named = {name: str(footage / folder) for name, folder in systems.items()}
    with pytest.raises(ValueError, match=message):
        evaluated(footage, tmp_path, named, **changed)
