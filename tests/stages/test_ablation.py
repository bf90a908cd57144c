"""Distillation runs to one table: missing clips are made, done work is left alone, and failed runs are rows."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from hh_train.metrics.measure import Measure
from hh_train.metrics.measurer import Measured, Sample
from hh_train.stages import ablation

ROWS = {"parts_full": {}, "parts_ratio_1": {"critic_steps_per_student_step": 1}, "steps_1": {}}
MODEL = "model.safetensors"


class Brightness:
    """The mean of all pixels."""

    measures: Sequence[Measure] = (Measure(name="brightness", title="brightness", digits=3, better="higher"),)

    def __init__(self) -> None:
        self.num_measured = 0

    def protocol(self) -> Mapping[str, str]:
        return {}

    def measure(self, sample: Sample) -> Measured:
        self.num_measured += 1
        return Measured(values={"brightness": float(sample.clip.frames.float().mean()) / 255})


class Evaluations:
    """How often the model was asked."""

    measures: Sequence[Measure] = (Measure(name="num_function_evaluations", title="evaluations", digits=0),)

    def protocol(self) -> Mapping[str, str]:
        return {}

    def measure(self, sample: Sample) -> Measured:
        found = sample.fields.get("generation", {}).get("num_function_evaluations")
        return Measured(values={"num_function_evaluations": None if found is None else float(found)})


def write_run(folder: Path, student: Path, *, row: str, seed: int, done: bool = True, **module: Any) -> Path:
    """A run as `distill` leaves it, whose student's weights are its own."""
    config = yaml.safe_load((student / "training_config.yaml").read_text())
    config["seed"] = seed
    config["module"] |= {"seed": seed, **module}
    if row == "steps_1":
        config["module"]["rollout"]["sampler"]["num_steps"] = 1
    command = f"hh-train distill '+experiment/distill/ablations={row}' seed={seed} output={folder}"
    text = f"# hh_train 0.1.0\n# {command}\n{yaml.safe_dump(config)}"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(text)
    if done:
        shutil.copytree(student, folder / "model")
        (folder / "model" / "training_config.yaml").write_text(text)
        weights = load_file(folder / "model" / MODEL)
        generator = torch.Generator().manual_seed(hash_of(row) + seed)
        moved = {n: w + 0.02 * torch.randn(w.shape, generator=generator).to(w.dtype) for n, w in weights.items()}
        save_file(moved, folder / "model" / MODEL)
    return folder


def hash_of(row: str) -> int:
    return sum(map(ord, row))


@pytest.fixture(scope="module")
def sweep(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multirun's folder: three rows of two seeds, one run of which has failed, and a row that has none."""
    folder = tmp_path_factory.mktemp("sweep")
    for row, module in ROWS.items():
        for seed in (0, 1):
            is_done = (row, seed) != ("steps_1", 1)
            write_run(folder / f"{row},seed={seed}", student, row=row, seed=seed, done=is_done, **module)
    write_run(folder / "parts_with_gan,seed=0", student, row="parts_with_gan", seed=0, done=False, adversarial={"w": 1})
    return folder


@pytest.fixture(scope="module")
def baseline(tiny_shards: Path) -> Path:
    return tiny_shards.parent / "footage" / "test"


Collect = Callable[..., Path]


@pytest.fixture
def collect(sweep: Path, tiny_shards: Path, baseline: Path, tmp_path: Path) -> Collect:
    def run(**changed: Any) -> Path:
        arguments: dict[str, Any] = {
            "runs": [str(sweep)],
            "reference": str(baseline),
            "shards": str(tiny_shards),
            "measures": {"light": Brightness(), "cost": Evaluations(), "none": None},
            "output": str(tmp_path / "out"),
            "compute_dtype": "float32",
            "base": "parts_full",
        }
        return ablation.run(**(arguments | changed))

    return run


def results(page: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(page.with_name("ablation.json").read_text())
    return found


def test_every_run_is_in_the_table(collect: Collect, baseline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = collect(baselines={"teacher": str(baseline)})
    rows = results(page)["rows"]
    assert list(rows) == ["parts_full", "parts_ratio_1", "parts_with_gan", "steps_1", "teacher"]
    ratio = rows["parts_ratio_1"]
    assert [run["critic_steps"] for run in ratio["runs"]] == [2, 2]
    assert [run["critic_steps"] for run in rows["parts_full"]["runs"]] == [4, 4]
    ours, theirs = (row["scores"]["brightness"] for row in (ratio, rows["parts_full"]))
    assert ours["num_clips"] == 4 and set(ours["by_seed"]) == {"0", "1"}
    difference = ratio["differences"]["brightness"]
    expected = [ours["by_seed"][seed] - theirs["by_seed"][seed] for seed in "01"]
    assert list(difference["by_seed"].values()) == pytest.approx(expected)
    assert difference["words"] == "n = 4 is too few to tell anything apart" and any(expected)
    assert rows["parts_full"]["scores"]["num_function_evaluations"]["mean"] == 2
    assert rows["steps_1"]["scores"]["num_function_evaluations"]["mean"] == 1
    assert rows["steps_1"]["differences"]["brightness"]["num_clips"] == 2
    assert "nothing is logged" in rows["steps_1"]["runs"][1]["trouble"]
    gan = rows["parts_with_gan"]
    assert not gan["scores"] and gan["remark"] == "no run of this row has a student that could be scored"
    real = results(page)["real"]["brightness"]["mean"]
    assert rows["teacher"]["scores"]["brightness"]["mean"] == pytest.approx(real)
    assert rows["teacher"]["differences"]["brightness"]["num_clips"] == 4
    printed = capsys.readouterr().out
    assert "Ablation of parts_full" in printed and "parts_with_gan" in printed
    verdicts = {(v["row"], v["against"]): v["verdict"] for v in results(page)["published"]}
    assert verdicts["parts_ratio_1", "parts_full"] == "cannot tell" and ("parts_full", "teacher") in verdicts


def test_all_files_say_the_same(collect: Collect) -> None:
    page = collect()
    with page.with_name("ablation.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["measure"] == "brightness"]
    rows = results(page)["rows"]
    assert {line["row"]: float(line["mean"]) for line in lines} == {
        name: row["scores"]["brightness"]["mean"] for name, row in rows.items() if row["scores"]
    }
    mean = rows["parts_ratio_1"]["scores"]["brightness"]["mean"]
    for name in ("ablation.md", "ablation.html"):
        assert f"{mean:.3f}" in page.with_name(name).read_text(encoding="utf-8")


def test_the_command_of_the_collection_is_kept(collect: Collect, tmp_path: Path) -> None:
    assert "hh-train evaluate ablation" in results(collect(max_clips=1))["command"]
    (tmp_path / "out" / "config.yaml").write_text("# hh_train 0.1.0\n# hh-train ablation max_clips=1 seed=3\nseed: 3\n")
    assert results(collect(max_clips=1))["command"] == "hh-train ablation max_clips=1 seed=3"


def test_a_second_collection_makes_and_measures_nothing(
    collect: Collect, sweep: Path, times: Callable[[Path], dict[Path, int]]
) -> None:
    first = Brightness()
    page = collect(measures={"light": first})
    before, table = times(sweep), page.with_name("ablation.csv").read_text()
    again = Brightness()
    collect(measures={"light": again})
    assert first.num_measured == 2 * 6 and again.num_measured == 0
    assert times(sweep) == before and page.with_name("ablation.csv").read_text() == table


def test_a_student_whose_clips_cannot_be_made_is_a_row(
    collect: Collect, sweep: Path, student: Path, tmp_path: Path
) -> None:
    other = write_run(tmp_path / "other", student, row="parts_other", seed=0, ema_start=1)
    provenance = json.loads((other / "model" / "provenance.json").read_text())
    provenance["tokenizers"]["audio"] = "another"
    (other / "model" / "provenance.json").write_text(json.dumps(provenance))
    row = results(collect(runs=[str(sweep), str(other)]))["rows"]["parts_other"]
    assert "its clips could not be generated" in row["runs"][0]["trouble"] and not row["runs"][0]["is_scored"]


def test_where_all_have_failed_there_is_still_a_table(collect: Collect, sweep: Path) -> None:
    page = collect(runs=[str(sweep / "parts_with_gan,seed=0")], base=None)
    assert results(page)["base"] == "parts_with_gan" and "Nothing can be compared." in page.read_text()


def test_rows_of_other_seeds_are_not_compared(collect: Collect, sweep: Path, student: Path, tmp_path: Path) -> None:
    lone = write_run(tmp_path / "lone", student, row="parts_lone", seed=5, ema_start=1)
    row = results(collect(runs=[str(sweep), str(lone)]))["rows"]["parts_lone"]
    assert row["scores"] and not row["differences"]
    assert "no training seed and prompt in common with parts_full (which has the seeds 0, 1)" in row["remark"]


def test_a_row_of_another_teacher_says_so(collect: Collect, sweep: Path, student: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", student, row="parts_other", seed=0, ema_start=1)
    file = other / "model" / "provenance.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"teacher": "another"}))
    rows = results(collect(runs=[str(sweep), str(other)], max_clips=1))["rows"]
    assert "distilled from another teacher than parts_full" in rows["parts_other"]["remark"]
    assert rows["parts_ratio_1"]["remark"] is None


def test_the_row_in_the_middle_is_the_base(collect: Collect, sweep: Path) -> None:
    runs = [str(sweep / f"{row},seed=0") for row in ("parts_ratio_1", "parts_full", "steps_1")]
    assert results(collect(runs=runs, base=None, max_clips=1))["base"] == "parts_full"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"base": "nothing"}, "got the base 'nothing'; the rows are parts_full"),
        ({"columns": ["fvd"]}, "got the column 'fvd'; there are brightness"),
        ({"baselines": {"steps_1": "x"}}, "a baseline named 'steps_1'"),
        ({"baselines": {"teacher": "nowhere"}}, "nowhere"),
        ({"measures": {}}, "nothing to measure"),
        ({"split": "nothing"}, "no clip in its split 'nothing'"),
        ({"max_clips": 0}, "max_clips 0"),
        ({"runs": ["nowhere"]}, "nowhere holds no run"),
    ],
)
def test_wrong_arguments_end_before_any_work(
    collect: Collect, tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        collect(**changed)
    assert not (tmp_path / "out").exists()
