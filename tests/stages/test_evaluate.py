"""Folders in, scores out: known systems get known scores, bad clips are told and counted, and processes share the work.

The sound of a clip is one tone a word, so that a stand-in for the recognizer hears exactly what is in the file.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from hh_train.data.media.files import write_clip
from hh_train.metrics.cost import CostMeasurer
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurer import Measured, Measurer, Sample
from hh_train.metrics.sound.measurer import SoundMeasurer
from hh_train.metrics.speech.measurer import SpeechMeasurer
from hh_train.stages import evaluate
from hh_train.types import Clip, ClipMetadata, DialogueLine, Prompt

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
FRAMES, PART = 25, 6400
SAID = {f"test-{i:02}": f"{WORDS[i % 10]} {WORDS[(3 * i + 1) % 10]}" for i in range(12)}
STUDENT_CLIPS = 10


class Ear:
    """Reads the tones."""

    languages: Sequence[str] = ("en",)

    def __init__(self, name: str = "ear") -> None:
        self.name = name

    def transcribe(self, waveform: torch.Tensor, language: str) -> str:
        heard = []
        for part in waveform[: 2 * PART].split(PART):
            spectrum = torch.fft.rfft(part).abs()
            if float(spectrum.max()) > 5:
                heard.append(WORDS[round(float(spectrum.argmax()) * 16_000 / PART / 200) - 2])
        return " ".join(heard)

    def fingerprint(self) -> str:
        return self.name


class Brightness:
    """The mean of all pixels, and a count of the clips that it was shown."""

    measures: Sequence[Measure] = (Measure(name="brightness", title="brightness", digits=3),)

    def __init__(self) -> None:
        self.seen: list[str] = []

    def protocol(self) -> Mapping[str, str]:
        return {"scale": "0 to 1"}

    def measure(self, sample: Sample) -> Measured:
        self.seen.append(sample.key)
        return Measured(values={"brightness": float(sample.clip.frames.float().mean()) / 255})


def tones(text: str) -> torch.Tensor:
    at = torch.arange(PART) / 16_000
    parts = [0.2 * torch.sin(2 * torch.pi * 200 * (WORDS.index(word) + 2) * at) for word in text.split()]
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
    speaker = f"speaker {int(key[-2:]) // 2}"
    known = ClipMetadata(key=key, prompt=prompt, transcript=SAID[key], language="en", speaker=speaker)
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
        if i < STUDENT_CLIPS:
            first = text.split()[0]
            write(root / "student", key, f"{first} {first}", fields=cost, bright=40)
    (root / "teacher" / "other.mp4").write_bytes((root / "teacher" / "test-00.mp4").read_bytes())
    return root


def measurers(**more: Measurer | None) -> dict[str, Measurer | None]:
    return {"speech": SpeechMeasurer(recognizer=Ear()), "light": Brightness(), "cost": CostMeasurer(), **more}


def evaluated(footage: Path, output: Path, systems: dict[str, str], **changed: Any) -> dict[str, Any]:
    arguments = {
        "systems": systems,
        "reference": str(footage / "real"),
        "measures": measurers(),
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


def test_known_systems_get_known_scores(footage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "no run")
    results = evaluated(footage, tmp_path, folders(footage, "teacher", "student"), train_logs={"pretrain": missing})
    real, teacher, student = (results["systems"][name] for name in ("real", "teacher", "student"))
    assert real["scores"]["speech_wer"]["mean"] == teacher["scores"]["speech_wer"]["mean"] == 0.0
    wrong = [len(set(text.split())) - 1 for text in list(SAID.values())[:STUDENT_CLIPS]]
    assert student["scores"]["speech_wer"]["mean"] == pytest.approx(sum(wrong) / (2 * STUDENT_CLIPS))
    assert (teacher["num_clips"], student["num_clips"]) == (12, STUDENT_CLIPS)
    assert teacher["scores"]["num_function_evaluations"]["mean"] == 64
    assert "seconds" not in real["scores"]
    brighter = student["differences"]["brightness"]
    assert brighter["mean"] == pytest.approx(40 / 255, abs=0.01) and brighter["num_clips"] == STUDENT_CLIPS
    assert brighter["is_significant"] and student["differences"]["speech_wer"]["is_significant"]
    assert not teacher["differences"] and not real["differences"]
    assert results["base"] == "teacher" and len(results["protocol"]["fingerprint"]) == 16
    assert any("teacher has 12 clips, 2 of them not in all" in note for note in results["notes"])
    assert any("There are 6 speakers, too few" in note for note in results["notes"])
    printed = capsys.readouterr().out
    assert "mishears 0.0%" in printed and "is worse than" in printed and "detectable" in printed
    page = (tmp_path / "report.html").read_text()
    assert "holds no metrics.csv" in page and page.count("<video") >= 20

    with (tmp_path / "clips.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12 + 12 + STUDENT_CLIPS
    one = next(r for r in rows if (r["system"], r["key"]) == ("student", "test-03"))
    assert one["heard"] == "three three" and float(one["speech_wer"]) == 0.5


def test_only_what_is_new_or_changed_is_measured_again(footage: Path, tmp_path: Path) -> None:
    shutil.copytree(footage / "student", tmp_path / "student")
    systems = {"student": str(tmp_path / "student")}
    light = Brightness()
    first = evaluated(footage, tmp_path / "out", systems, measures=measurers(light=light))
    assert len(light.seen) == 2 * STUDENT_CLIPS
    light.seen.clear()
    again = evaluated(footage, tmp_path / "out", systems, measures=measurers(light=light, speech=None))
    assert not light.seen
    assert again["systems"]["student"]["scores"]["brightness"] == first["systems"]["student"]["scores"]["brightness"]
    assert "speech_wer" not in again["systems"]["student"]["scores"]
    write(tmp_path / "student", "test-00", SAID["test-00"], bright=41)
    evaluated(footage, tmp_path / "out", systems, measures=measurers(light=light))
    assert light.seen == ["test-00"]
    other = measurers(light=light, speech=SpeechMeasurer(recognizer=Ear("another")))
    changed = evaluated(footage, tmp_path / "out", systems, measures=other)
    assert light.seen == ["test-00"], "what another measurer needs anew does not concern this one"
    old, new = first["protocol"], changed["protocol"]
    assert old["fingerprints"]["light"] == new["fingerprints"]["light"]
    assert old["fingerprints"]["speech"] != new["fingerprints"]["speech"] and old["fingerprint"] != new["fingerprint"]


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
    rate = system["scores"]["speech_wer"]
    assert (rate["mean"], rate["num_clips"], rate["num_failed"]) == (pytest.approx(3 / 12), 12, 3)
    assert system["scores"]["brightness"]["num_clips"] == 9
    assert "unreadable system/test-00" in capsys.readouterr().out
    assert "test-01" in (tmp_path / "out" / "report.html").read_text()


def test_a_truncated_track_is_told_and_its_length_measured(footage: Path, tmp_path: Path) -> None:
    """Decoding fills up what is missing with silence, which nobody has recorded."""
    for key, text in SAID.items():
        write(tmp_path / "system", key, text)
    frames = torch.full((FRAMES, 64, 64, 3), 90, dtype=torch.uint8)
    write_tracks(tmp_path / "system" / "test-00.mp4", frames, 0.5)
    write_tracks(tmp_path / "system" / "test-01.mp4", frames, 1.0)
    results = evaluated(
        footage, tmp_path / "out", {"system": str(tmp_path / "system")}, measures=measurers(sound=SoundMeasurer())
    )
    (note,) = (note for note in results["notes"] if "does not end with the picture" in note)
    assert note.startswith("In 1 of 12 clips of system (such as test-00)")
    with (tmp_path / "out" / "clips.csv").open() as file:
        row = next(r for r in csv.DictReader(file) if (r["system"], r["key"]) == ("system", "test-00"))
    assert float(row["duration_difference"]) == pytest.approx(0.5, abs=0.07)
    assert "s before the picture" in row["notes"] and not row["lufs"]
    assert float(row["speech_wer"]) == 1.0, "no system gains by broken sound"
    assert "a truncated track" in row["notes"]


def write_tracks(path: Path, frames: torch.Tensor, seconds: float) -> None:
    """A picture of one second, and sound of another length."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=25)
        picture.width = picture.height = 64
        picture.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=16_000)
        for pixels in frames.numpy():
            container.mux(picture.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(picture.encode())
        samples = (0.2 * torch.sin(torch.arange(round(seconds * 16_000)) * 0.2)).numpy()[None]
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(sound.encode(frame))
        container.mux(sound.encode())


def test_a_constant_voice_scores_near_one(footage: Path, tmp_path: Path) -> None:
    for key in SAID:
        write(tmp_path / "constant", key, "nine nine")
    results = evaluated(footage, tmp_path / "out", {"constant": str(tmp_path / "constant")})
    assert results["systems"]["constant"]["scores"]["speech_wer"]["mean"] > 0.8


def test_max_clips_takes_the_prompts_that_all_have(footage: Path, tmp_path: Path) -> None:
    results = evaluated(footage, tmp_path, folders(footage, "teacher", "student"), max_clips=4)
    assert {s["num_clips"] for s in results["systems"].values()} == {4}
    assert results["systems"]["student"]["differences"]["brightness"]["num_clips"] == 4


def test_clips_without_transcripts_are_scored_on_the_rest(footage: Path, tmp_path: Path) -> None:
    for key, text in list(SAID.items())[:3]:
        write(tmp_path / "real", key, text)
        (tmp_path / "real" / f"{key}.json").unlink()
        (tmp_path / "real" / f"{key}.txt").write_text("A man.")
    results = evaluated(footage, tmp_path / "out", folders(footage, "teacher"), reference=str(tmp_path / "real"))
    speech = results["systems"]["teacher"]["scores"]["speech_wer"]
    assert (speech["mean"], speech["num_clips"], speech["num_undefined"]) == (None, 0, 3)
    assert results["systems"]["teacher"]["scores"]["brightness"]["num_clips"] == 3
    with (tmp_path / "out" / "clips.csv").open() as file:
        assert all("has no transcript" in row["notes"] for row in csv.DictReader(file))


@pytest.mark.parametrize(
    ("systems", "changed", "message"),
    [
        ({}, {}, "name one or more"),
        ({"real": "real"}, {}, "none 'real'"),
        ({"codec": "teacher"}, {}, "or 'codec'"),
        ({"a/b": "teacher"}, {}, "without a slash"),
        ({"teacher": "nowhere"}, {}, "system 'teacher'.*does not exist"),
        ({"teacher": "teacher"}, {"reference": "elsewhere"}, "elsewhere does not exist"),
        ({"strange": "strange"}, {}, "system 'strange': none of the 1 clips"),
        ({"teacher": "teacher"}, {"max_clips": 0}, "got max_clips 0"),
        ({"teacher": "teacher"}, {"measures": {"light": None}}, "nothing to measure"),
        ({"teacher": "teacher"}, {"measures": {"a": CostMeasurer(), "b": CostMeasurer()}}, "from 'a' and from 'b'"),
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


def test_the_measures_of_the_configuration_work_together(
    run_stage: Callable[..., Any], tiny_shards: Path, tmp_path: Path
) -> None:
    """All but the speech error, which needs a trained recognizer."""
    footage = tiny_shards.parent / "footage" / "test"
    page = run_stage(
        "evaluate",
        "measures.speech=null",
        f"systems.teacher={footage}",
        "~systems.student",
        "~systems.teacher_8_steps",
        f"reference={footage}",
        f"output={tmp_path}",
        f"codec_clips={tmp_path}/codec",
    )
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["systems"]) == ["real", "codec", "teacher"] and results["base"] == "teacher"
    codec = results["systems"]["codec"]
    assert codec["num_clips"] == 2 and codec["scores"]["fad"]["mean"] > 0 and not codec["differences"]
    assert any(note.startswith("codec is the real clips through the codecs") for note in results["notes"])
    assert list(results["protocol"]["measurers"]) == [
        "lips", "sync", "motion", "pictures", "sound", "distribution", "cost",
    ]  # fmt: skip
    real, same = (results["systems"][name]["scores"] for name in ("real", "teacher"))
    assert {"face_coverage", "av_align", "flow", "pixel_mean", "loudness_db", "video_latent_mean"} <= set(real)
    assert {"flow", "pixel_mean", "loudness_db", "fad"} <= set(same) and "fad" not in real
    assert same["flow"] == real["flow"] and same["fad"]["mean"] == pytest.approx(0, abs=1e-6)
    assert page.read_text().count("<video") == 6


SLOW_PROCESS = """
import sys, time
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurer import Measured
from hh_train.stages import evaluate

class Brightness:
    measures = (Measure(name="brightness", title="brightness", digits=3),)
    def protocol(self):
        return {"scale": "0 to 1"}
    def measure(self, sample):
        time.sleep(0.3)
        return Measured(values={"brightness": float(sample.clip.frames.float().mean()) / 255})

footage, output = sys.argv[1:]
evaluate.run(systems={name: f"{footage}/{name}" for name in ("teacher", "student")}, reference=f"{footage}/real",
             measures={"light": Brightness()}, output=output, train_logs={}, max_clips=None, seed=0)
"""


def test_processes_share_the_clips_and_a_killed_one_goes_on(
    footage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three processes for 34 clips; one is killed in the middle, and started again at the end."""
    output = tmp_path / "many"
    systems = folders(footage, "teacher", "student")

    def run_process(number: int, count: int, folder: Path) -> tuple[Path | None, list[str]]:
        monkeypatch.setenv("RANK", str(number))
        monkeypatch.setenv("WORLD_SIZE", str(count))
        light = Brightness()
        page = evaluate.run(
            systems=systems, reference=str(footage / "real"), measures={"light": light}, output=str(folder),
            train_logs={}, max_clips=None, seed=0,
        )  # fmt: skip
        return page, light.seen

    environment = os.environ | {"RANK": "2", "WORLD_SIZE": "3"}
    killed = subprocess.Popen([sys.executable, "-c", SLOW_PROCESS, str(footage), str(output)], env=environment)
    own = output / "measured" / "real.process-2.jsonl"
    deadline = time.monotonic() + 120
    while not (own.is_file() and own.read_text().count("\n") >= 2):
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    page, first = run_process(0, 3, output)
    assert page is None
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    with own.open("a") as file:
        file.write('{"key": "torn')
    page, second = run_process(1, 3, output)
    assert page is None and "the last one to end writes the report" in capsys.readouterr().out
    assert not (output / "report.html").exists()
    page, third = run_process(2, 3, output)
    assert page == output / "report.html" and page.exists()
    measured_by_the_killed = 34 - len(first) - len(second) - len(third)
    assert measured_by_the_killed >= 2 and third, "it went on where it was killed"
    assert (len(first), len(second)) == (12, 11)

    page, seen = run_process(0, 1, tmp_path / "one")
    assert page is not None and len(seen) == 34
    many, one = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("many", "one"))
    assert many == one and one["systems"]["student"]["scores"]["brightness"]["mean"] > 0.3

    page, seen = run_process(5, 6, output)
    assert page is None and not seen, "as many as there are may come; what is measured stays measured"
