"""Finished evaluations against each other: what may be compared, and what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from hh_train.data.media.files import write_clip
from hh_train.metrics.comparison.protocol import ProtocolMismatchError
from hh_train.metrics.measure import Measure
from hh_train.metrics.measurer import Measured, Measurer, Sample
from hh_train.stages import compare, evaluate
from hh_train.types import Clip, ClipMetadata, Prompt

NUM_CLIPS = 12


class Brightness:
    """The mean of all pixels."""

    measures: Sequence[Measure] = (Measure(name="brightness", title="brightness", digits=3, better="higher"),)

    def __init__(self, version: str = "1") -> None:
        self.version = version

    def protocol(self) -> Mapping[str, str]:
        return {"version": self.version}

    def measure(self, sample: Sample) -> Measured:
        return Measured(values={"brightness": float(sample.clip.frames.float().mean()) / 255})


class Length:
    """How long the clip is."""

    measures: Sequence[Measure] = (Measure(name="frames", title="frames"),)

    def protocol(self) -> Mapping[str, str]:
        return {}

    def measure(self, sample: Sample) -> Measured:
        return Measured(values={"frames": float(sample.clip.frames.shape[0])})


def write(folder: Path, key: str, gray: int, *, says: str = "one") -> None:
    frames = torch.full((5, 32, 32, 3), gray, dtype=torch.uint8)
    clip = Clip(frames=frames, frames_per_second=25.0, waveform=torch.zeros(3200), samples_per_second=16_000)
    write_clip(folder / f"{key}.mp4", clip)
    known = ClipMetadata(key=key, prompt=Prompt(description="A wall."), transcript=says, language="en")
    (folder / f"{key}.json").write_text(json.dumps(known.to_json()))
    (folder / f"{key}.txt").write_text(known.prompt.compose())


@pytest.fixture(scope="module")
def walls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real walls; a dark, a bright one, and one that is as dark as the dark one on average."""
    root = tmp_path_factory.mktemp("compare")
    for i in range(NUM_CLIPS):
        key = f"wall-{i:02}"
        write(root / "real", key, 100 + 5 * i)
        write(root / "dark", key, 80 + 5 * i)
        write(root / "bright", key, 120 + 5 * i)
        write(root / "dim", key, 80 + 5 * i + (3 if i % 2 else -3))
        if i < NUM_CLIPS - 2:
            write(root / "fewer", key, 120 + 5 * i)
    return root


Evaluated = Callable[..., str]


@pytest.fixture(scope="module")
def evaluated(walls: Path) -> Evaluated:
    """Evaluates folders; the evaluation's folder."""

    def run(output: str, *names: str, measures: Mapping[str, Measurer] | None = None, **changed: Any) -> str:
        arguments: dict[str, Any] = {
            "systems": {name.split("/")[-1]: str(walls / name) for name in names},
            "reference": str(walls / "real"),
            "measures": measures or {"light": Brightness(), "length": Length()},
            "output": str(walls / output),
            "train_logs": {},
            "max_clips": None,
            "seed": 0,
        }
        assert evaluate.run(**(arguments | changed))
        return str(walls / output)

    return run


def differences(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    with (folder / "differences.csv").open() as file:
        return {(row["system"], row["measure"]): row for row in csv.DictReader(file)}


def test_systems_of_several_evaluations_are_compared_with_the_first(
    evaluated: Evaluated, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = evaluated("first", "dark", "dim"), evaluated("second", "bright", "dark")
    capsys.readouterr()
    page = compare.run(evaluations=[f"{first}:dark", second, f"{first}:dim"], output=str(tmp_path))
    printed = capsys.readouterr().out
    found = differences(tmp_path)
    bright = found["bright", "brightness"]
    assert float(bright["mean"]) == pytest.approx(40 / 255, abs=0.005) and bright["is_significant"] == "True"
    assert "bright is better than first:dark" in printed
    dim = found["dim", "brightness"]
    assert dim["is_significant"] == "False" and float(dim["detectable"]) == pytest.approx(
        2.8 * 3 / 255 / 12**0.5, rel=0.2
    )
    assert "cannot tell apart at n = 12" in printed and "±0.0" in printed
    same = found["second:dark", "brightness"]
    assert float(same["mean"]) == 0.0 and f"equal at n = {NUM_CLIPS}" in printed
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results["systems"]) == ["real", "first:dark", "bright", "second:dark", "dim"]
    assert results["systems"]["real"]["scores"]["frames"]["mean"] == 5
    text = page.read_text()
    assert "first:dark against bright, second:dark, dim" in text and text.count("<video") == 8 * 5


def test_one_evaluation_is_a_comparison_of_its_systems(evaluated: Evaluated, tmp_path: Path) -> None:
    both = evaluated("both", "dark", "bright")
    compare.run(evaluations=[both], output=str(tmp_path))
    assert set(differences(tmp_path)) == {("bright", "brightness"), ("bright", "frames")}
    compare.run(evaluations=[both], measurers=["light"], output=str(tmp_path / "light"))
    assert set(differences(tmp_path / "light")) == {("bright", "brightness")}


def test_other_ways_of_measuring_are_refused_by_name(evaluated: Evaluated, tmp_path: Path) -> None:
    old = evaluated("old", "dark")
    new = evaluated("new", "bright", measures={"light": Brightness("2"), "length": Length()})
    with pytest.raises(
        ProtocolMismatchError, match=r"light\.version: 1 in dark, 2 in bright(.|\n)*measurers=\[length\]"
    ):
        compare.run(evaluations=[old, new], output=str(tmp_path))
    compare.run(evaluations=[old, new], measurers=["length"], output=str(tmp_path))
    assert set(differences(tmp_path)) == {("bright", "frames")}
    slower = evaluated("slower", "bright", frames_per_second=24.0)
    with pytest.raises(ProtocolMismatchError, match=r"frames_per_second=25\.0"):
        compare.run(evaluations=[old, slower], output=str(tmp_path))


def test_other_prompts_are_refused_unless_only_common_ones_are_wanted(evaluated: Evaluated, tmp_path: Path) -> None:
    whole, fewer = evaluated("whole", "dark"), evaluated("part", "fewer")
    with pytest.raises(ValueError, match=r"dark has 12 clips, 2 of them not in all.*common_clips=true"):
        compare.run(evaluations=[whole, fewer], output=str(tmp_path))
    compare.run(evaluations=[whole, fewer], common_clips=True, output=str(tmp_path))
    assert differences(tmp_path)["fewer", "brightness"]["num_clips"] == "10"
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["systems"]["dark"]["num_clips"] == 10
    assert any("left out: 2 of dark" in note for note in results["notes"])


def test_prompts_of_one_key_say_the_same(evaluated: Evaluated, walls: Path, tmp_path: Path) -> None:
    for i in range(3):
        write(walls / "other real", f"wall-{i:02}", 100, says="two")
        write(walls / "other", f"wall-{i:02}", 90, says="two")
    usual = evaluated("usual", "dark")
    other = evaluated("other words", "other", reference=str(walls / "other real"))
    with pytest.raises(ValueError, match="wall-00 is not the same everywhere: 'one' in dark; 'two' in other"):
        compare.run(evaluations=[usual, other], common_clips=True, output=str(tmp_path))


def test_mistakes_are_told(evaluated: Evaluated, tmp_path: Path) -> None:
    one = evaluated("one", "dark")
    for evaluations, message in (
        ([one], "got 1 system"),
        ([f"{one}:bright", one], "has no system 'bright', but dark"),
        ([str(tmp_path / "nothing")], "holds no evaluation"),
    ):
        with pytest.raises(ValueError, match=message):
            compare.run(evaluations=evaluations, output=str(tmp_path / "out"))
    with pytest.raises(ValueError, match="got the measurer 'sound'; an evaluation has light, length"):
        compare.run(evaluations=[one, f"{one}:dark", evaluated("two", "bright")], measurers=["sound"], output="")
    results = Path(one) / "results.json"
    results.write_text("{}")
    with pytest.raises(ValueError, match="of another version or damaged"):
        compare.run(evaluations=[one], output=str(tmp_path / "out"))


def test_clips_that_are_gone_leave_the_numbers(evaluated: Evaluated, walls: Path, tmp_path: Path) -> None:
    for i in range(NUM_CLIPS):
        write(walls / "short-lived", f"wall-{i:02}", 90)
    folder = evaluated("memory", "dark", "short-lived")
    for file in (walls / "short-lived").iterdir():
        file.unlink()
    page = compare.run(evaluations=[folder], output=str(tmp_path))
    assert ("short-lived", "brightness") in differences(tmp_path)
    assert page.read_text().count("<video") == 8 * 2
