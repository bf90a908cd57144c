"""The command line on a small tree of its own: what is run, what is recorded, what is said when something is wrong."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from hh_train.cli import STAGES, in_one_form, main, report, run_stage, usage

CALLS: list[dict[str, Any]] = []


def run(
    *, output: Path | None = None, seed: int = 0, steps: int = 1, rates: list[float], fail: str | None = None
) -> int:
    """A stage that writes down how it was called."""
    drawn = (random.random(), float(torch.rand(())))
    call = {"output": output, "seed": seed, "steps": steps, "rates": rates, "drawn": drawn, "argv": list(sys.argv)}
    CALLS.append(call)
    if fail == "anew" and output is not None:
        shutil.rmtree(output)
        output.mkdir()
    if fail == "file":
        raise FileNotFoundError("there is no clip.mp4")
    if fail == "bug":
        raise KeyError("a slip of ours")
    if fail == "interrupt":
        raise KeyboardInterrupt
    return steps


def tokenize(
    *, output: Path | None, seed: int, steps: int, rates: list[float], fail: str | None, dry_run: bool
) -> None:
    """A stage that may be tried out."""
    run(output=output, seed=seed, steps=steps, rates=rates, fail=fail)
    CALLS[-1]["dry_run"] = dry_run


@pytest.fixture(autouse=True)
def _loggers_stay_on() -> Iterator[None]:
    """The command line configures logging, and Hydra switches off every logger that was there before."""
    ours = logging.getLogger("hh_train")
    before = ours.handlers, ours.level, ours.propagate
    disabled = logging.root.manager.disable
    yield
    ours.handlers, ours.level, ours.propagate = before
    logging.disable(disabled)
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("hh_train") and isinstance(logger, logging.Logger):
            logger.disabled = False


@pytest.fixture(autouse=True)
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree with one root, as HH_TRAIN_CONFIGS; the working directory is empty."""
    configs, work = tmp_path / "configs", tmp_path / "work"
    (configs / "paths").mkdir(parents=True)
    work.mkdir()
    shutil.copytree(Path(__file__).resolve().parents[1] / "configs" / "hydra", configs / "hydra")
    (configs / "paths" / "default.yaml").write_text("root: runs\n")
    root = f"defaults: [{{paths: default}}, _self_]\n_target_: {__name__}.run\noutput: ${{paths.root}}/out\n"
    (configs / "pretrain.yaml").write_text(f"{root}seed: 0\nsteps: 1\nrates: [1]\nfail: null\n")
    monkeypatch.setenv("HH_TRAIN_CONFIGS", str(configs))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.delenv("HH_TRAIN_TRACEBACK", raising=False)
    monkeypatch.chdir(work)
    CALLS.clear()
    return work


def hh_train(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of `hh-train ARGUMENTS`."""
    monkeypatch.setattr("sys.argv", ["hh-train", *arguments])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_a_stage_runs_in_this_process(tree: Path) -> None:
    assert run_stage("pretrain", "steps=3", "paths.root=my runs") == 3
    assert [(call["steps"], str(call["output"])) for call in CALLS] == [(3, "my runs/out")]
    assert OmegaConf.load(tree / "my runs" / "out" / "config.yaml").steps == 3
    with pytest.raises(ValueError, match="did you mean 'pretrain'"):
        run_stage("pretrian")
    with pytest.raises(ValueError, match="steps"):
        run_stage("pretrain", "steps=many")
    with pytest.raises(FileNotFoundError):
        run_stage("pretrain", "fail=file")


def test_help_is_the_table_of_stages_and_loads_nothing_heavy() -> None:
    code = "import sys; sys.argv = ['hh-train', '--help']; from hh_train.cli import main; main()"
    code += "; assert not {'torch', 'hydra', 'lightning'} & set(sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == usage()
    assert all(f"  {stage} " in answer.stdout for stage in STAGES)


def test_no_stage_shows_the_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert hh_train(monkeypatch) == 0
    assert "usage: hh-train STAGE" in capsys.readouterr().out


def test_the_help_of_a_stage_shows_groups_and_keys(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hh_train(monkeypatch, "pretrain", "--help") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: hh-train pretrain ")
    for line in ("paths: default", "output: ${paths.root}/out", "steps: 1"):
        assert line in shown
    assert not CALLS


def test_the_version_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert hh_train(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.startswith("hh-train 0.")


def test_a_stage_is_called_with_what_was_asked_for(monkeypatch: pytest.MonkeyPatch, tree: Path) -> None:
    assert hh_train(monkeypatch, "pretrain", "steps=3", "rates=[1,2]") == 0
    (call,) = CALLS
    assert (call["output"], call["steps"], call["rates"]) == (Path("runs/out"), 3, [1.0, 2.0])
    assert call["argv"] == ["hh-train", "pretrain", "steps=3", "rates=[1,2]"]
    record = tree / "runs" / "out" / "config.yaml"
    assert OmegaConf.load(record).steps == 3
    assert "# hh-train pretrain steps=3 'rates=[1,2]'" in record.read_text(encoding="utf-8").splitlines()
    assert [path.relative_to(tree) for path in tree.rglob("*") if path.is_file()] == [Path("runs/out/config.yaml")]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("evaluate seed=1", "evaluate seed=1"),
        ("tokenize --dry-run", "tokenize dry_run=true"),
        ("evaluate compare a/b c:student seed=3", 'compare seed=3 evaluations=["a/b", "c:student"]'),
        ("evaluate compare", "compare"),
        ("evaluate compare evaluations=[a] --cfg job", "compare evaluations=[a] --cfg job"),
        ("tokenize inspect shards=x", "inspect shards=x"),
        ("evaluate ablation +a=1,seed=0 base=b", 'ablation base=b runs=["+a=1,seed=0"]'),
    ],
)
def test_stages_of_two_words(written: str, meant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last names a folder that is there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "+a=1,seed=0").mkdir()
    assert " ".join(in_one_form(written.split())) == meant


def test_inspecting_shards_belongs_to_tokenizing(monkeypatch: pytest.MonkeyPatch, tree: Path) -> None:
    configs = tree.parent / "configs"
    (configs / "pretrain.yaml").rename(configs / "inspect.yaml")
    assert hh_train(monkeypatch, "tokenize", "inspect", "steps=4") == 0
    (call,) = CALLS
    assert (call["steps"], call["argv"]) == (4, ["hh-train", "inspect", "steps=4"])


def test_a_dry_run_may_be_asked_for_as_a_flag(monkeypatch: pytest.MonkeyPatch, tree: Path) -> None:
    configs = tree.parent / "configs"
    root = (configs / "pretrain.yaml").read_text()
    (configs / "tokenize.yaml").write_text(root.replace(f"{__name__}.run", f"{__name__}.tokenize") + "dry_run: false\n")
    assert hh_train(monkeypatch, "tokenize", "--dry-run", "steps=2") == 0
    (call,) = CALLS
    assert (call["steps"], call["dry_run"]) == (2, True)


def test_the_seed_decides_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in (1, 1, 2):
        assert hh_train(monkeypatch, "pretrain", f"seed={seed}") == 0
    first, again, other = (call["drawn"] for call in CALLS)
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_the_record_outlives_a_stage_that_makes_its_folder_anew(monkeypatch: pytest.MonkeyPatch, tree: Path) -> None:
    assert hh_train(monkeypatch, "pretrain", "fail=anew") == 0
    assert (tree / "runs" / "out" / "config.yaml").is_file()


def test_a_value_that_the_grammar_refuses_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hh_train(monkeypatch, "pretrain", "output=my clips (2024)/out") == 0
    assert CALLS[0]["output"] == Path("my clips (2024)/out")


def test_flags_and_overrides_stand_in_any_order(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hh_train(monkeypatch, "pretrain", "--cfg", "job", "steps=5", "--resolve") == 0
    shown = OmegaConf.create(capsys.readouterr().out)
    assert (shown.steps, shown.output) == (5, "runs/out")
    assert not CALLS


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pretain"], ["no stage 'pretain'", "did you mean 'pretrain'", "usage: hh-train"]),
        (["pretrain", "stps=3"], ["no key 'stps'", "did you mean 'steps'"]),
        (["pretrain", "paths=mine"], ["no option 'mine'", "options: default"]),
        (["pretrain", "steps"], ["cannot read the override 'steps'"]),
        (["pretrain", "steps=x", "+stps=3", "rates=3"], ["3 faults", "steps: got 'x'", "stps: ", "rates: got 3"]),
        (["pretrain", "output=${paths.rot}"], ["output: this interpolation leads nowhere"]),
    ],
)
def test_a_wrong_command_is_explained_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tree: Path,
    arguments: list[str],
    words: list[str],
) -> None:
    assert hh_train(monkeypatch, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err
    for word in words:
        assert word in captured.err
    assert not CALLS
    assert not list(tree.iterdir())


def test_the_users_errors_are_one_message(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert hh_train(monkeypatch, "pretrain", "fail=file") == 1
    assert capsys.readouterr().err.startswith("error: there is no clip.mp4\n")


def test_our_own_errors_come_with_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hh_train(monkeypatch, "pretrain", "fail=bug") == 1
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("HH_TRAIN_TRACEBACK", "1")
    assert hh_train(monkeypatch, "pretrain", "fail=file") == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupted_run_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert hh_train(monkeypatch, "pretrain", "fail=interrupt") == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_what_this_package_refuses_is_told_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    from hh_train.runtime.logging import configure_logging

    for refuse, has_traceback in ((lambda: configure_logging("LOUD"), False), (lambda: int("x"), True)):
        try:
            refuse()
        except ValueError as error:
            error.add_note("while building `size`")
            assert report(error) == 1
        shown = capsys.readouterr().err
        assert ("Traceback" in shown) is has_traceback
        assert "while building `size`" in shown


def test_jobs_of_a_multirun_have_their_own_folders_and_commands(monkeypatch: pytest.MonkeyPatch, tree: Path) -> None:
    assert hh_train(monkeypatch, "pretrain", "-m", "seed=1,2", "steps=3") == 0
    outputs = [Path("runs/out/seed=1"), Path("runs/out/seed=2")]
    assert [call["output"] for call in CALLS] == outputs
    assert CALLS[1]["argv"] == ["hh-train", "pretrain", "seed=2", "steps=3", "output=runs/out/seed=2"]
    assert [OmegaConf.load(tree / output / "config.yaml").seed for output in outputs] == [1, 2]
    command = CALLS[1]["argv"][1:]
    CALLS.clear()
    assert hh_train(monkeypatch, *command) == 0
    assert (CALLS[0]["output"], CALLS[0]["seed"]) == (outputs[1], 2)


def test_a_multirun_into_a_given_folder_keeps_its_jobs_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hh_train(monkeypatch, "pretrain", "-m", "seed=1,2", "output=here") == 0
    assert hh_train(monkeypatch, "pretrain", "-m", "output=a,b") == 0
    assert [str(call["output"]) for call in CALLS] == ["here/seed=1", "here/seed=2", "a", "b"]


def test_jobs_of_a_multirun_run_where_submitit_starts_them(tmp_path: Path) -> None:
    """As on SLURM, in processes that know the job's configuration alone."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    environment = {name: value for name, value in os.environ.items() if name != "HH_TRAIN_CONFIGS"}
    arguments = ["plan", "-m", "hydra/launcher=submitit_local", "model=cpu", "num_gpus=1,2", "output=plans"]
    done = subprocess.run(
        [sys.executable, "-m", "hh_train.cli", *arguments], cwd=tmp_path, env=environment, capture_output=True,
        text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for count in (1, 2):
        folder = tmp_path / "plans" / f"num_gpus={count}"
        assert json.loads((folder / "plan.json").read_text())["devices"]["count"] == count
        assert f"num_gpus={count} output=plans/num_gpus={count}" in (folder / "config.yaml").read_text()


def test_a_failed_job_leaves_the_other_jobs_running(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hh_train(monkeypatch, "pretrain", "-m", "fail=file,null", "seed=1,2") == 1
    assert [call["seed"] for call in CALLS] == [1, 2, 1, 2]
    assert capsys.readouterr().err.count("error: there is no clip.mp4") == 2


def test_a_process_that_lightning_starts_beside_this_one_runs_the_same(
    monkeypatch: pytest.MonkeyPatch, tree: Path
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    added = ['hydra.run.dir="."', "hydra.job.name=train_ddp_process_1", "hydra.output_subdir=null"]
    assert hh_train(monkeypatch, "pretrain", "steps=3", *added) == 0
    assert CALLS[0]["steps"] == 3
    assert not list(tree.iterdir()), "rank zero alone writes"
