"""What is read from the folders that distillation leaves: rows, seeds, progress, cost, and what went wrong."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from hh_train.stages.ablation_runs import (
    DistilledRun,
    are_of_different_teachers,
    central_row,
    differing_settings,
    read_runs,
    rows_by_name,
)

MakeRun = Callable[..., Path]


def settings_of(seed: int = 0, **module: Any) -> dict[str, Any]:
    return {
        "_target_": "hh_train.stages.distill.run",
        "seed": seed,
        "output": "somewhere",
        "trainer": {"accelerator": "gpu", "devices": 2},
        "module": {
            "rollout": {"sampler": {"_target_": "hh_train.flow.solvers.RenoiseSolver", "num_steps": 4, "shift": 5.0}},
            "critic_flow": {"noise_levels": 1},
            "adversarial": None,
            "num_student_steps": 40,
            "critic_steps_per_student_step": 5,
            "seed": seed,
            **module,
        },
        "datamodule": {"shards": "shards", "seed": seed},
    }


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(
        name: str,
        overrides: Sequence[str] = (),
        *,
        steps: int | None = 40,
        log: str | None = None,
        teacher: str | None = None,
        **module: Any,
    ) -> Path:
        folder = tmp_path / name
        seed = next((int(o.removeprefix("seed=")) for o in overrides if o.startswith("seed=")), 0)
        command = shlex.join(["hh-train", "distill", *overrides])
        text = f"# hh_train 0.1.0\n# {command}\n{yaml.safe_dump(settings_of(seed, **module))}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(text)
        if log is not None:
            (folder / "logs" / "version_0").mkdir(parents=True)
            (folder / "logs" / "version_0" / "metrics.csv").write_text(log)
        if steps is not None:
            (folder / "model").mkdir()
            (folder / "model" / "training_config.yaml").write_text(text)
            provenance = {"stage": "distill", "num_steps": steps, "tokenizers": {}, "teacher": teacher}
            (folder / "model" / "provenance.json").write_text(json.dumps(provenance))
            (folder / "model" / "model.safetensors").write_bytes(name.encode())
        return folder

    return make


def test_rows_are_named_by_what_sets_commands_apart(make_run: MakeRun, tmp_path: Path) -> None:
    for seed in (0, 1):
        for row, module in (("full", {}), ("gan", {"adversarial": {"weight": 1}})):
            own = [f"+experiment/distill/ablations=parts_{row}", "paths.root=x", "module.num_student_steps=40"]
            make_run(f"sweep/{row}-{seed}", [*own, f"seed={seed}", f"output=x/{row}-{seed}"], **module)
    (tmp_path / "sweep" / "notes").mkdir()
    make_run("single", ["experiment=distill/ablations/steps_2", "module.num_student_steps=40", "trainer=gpu"])
    runs = read_runs([str(tmp_path / "sweep"), str(tmp_path / "single"), str(tmp_path / "sweep" / "gan-1")])
    rows = rows_by_name(runs)
    assert {name: sorted(members) for name, members in rows.items()} == {
        "parts_full": [0, 1],
        "parts_gan": [0, 1],
        "steps_2": [0],
    }
    assert {name for members in rows_by_name(runs[:1]).items() for name in members[:1]} == {"parts_full"}


def test_overrides_without_an_experiment_name_rows_too(make_run: MakeRun) -> None:
    first = make_run("a", ["module.audio_weight=0.3", "seed=0"], audio_weight=0.3)
    second = make_run("b", ["module.audio_weight=1", "seed=0"], audio_weight=1)
    plain = make_run("c", ["seed=0"])
    rows = rows_by_name(read_runs([str(first), str(second), str(plain)]))
    assert list(rows) == ["module.audio_weight=0.3", "module.audio_weight=1", "default"]


def test_two_runs_of_one_name_must_be_of_one_kind(make_run: MakeRun) -> None:
    first = make_run("a", ["experiment=distill/ablations/x", "seed=0"])
    same = make_run("b", ["experiment=distill/ablations/x", "seed=0"])
    other = make_run("c", ["experiment=distill/ablations/x", "seed=1"], num_student_steps=7)
    with pytest.raises(ValueError, match="two runs are of one row and seed 0"):
        rows_by_name(read_runs([str(first), str(same)]))
    with pytest.raises(ValueError, match=r"both called 'x', but differ in module\.num_student_steps"):
        rows_by_name(read_runs([str(first), str(other)]))


def test_teachers_are_told_apart_by_their_weights_if_possible(make_run: MakeRun) -> None:
    """One folder held one checkpoint and later another; a copy of a checkpoint is the same teacher."""
    override = "experiment=distill/ablations/x"
    folders = {
        "old": make_run("a", [override, "seed=0"], teacher="1"),
        "new": make_run("b", [override, "seed=1"], teacher="2"),
        "unknown": make_run("c", [override, "seed=2"]),
    }
    runs = {name: read_runs([str(folder)])[0] for name, folder in folders.items()}
    assert are_of_different_teachers(runs["old"], runs["new"])
    assert not are_of_different_teachers(runs["old"], runs["unknown"])
    with pytest.raises(ValueError, match="the weights of their teachers differ"):
        rows_by_name([runs["old"], runs["new"]])
    assert list(rows_by_name([runs["old"], runs["unknown"]])) == ["x"]


def test_where_the_weights_are_not_known_the_folder_counts(make_run: MakeRun, tmp_path: Path) -> None:
    pairs = {}
    for name, folder in (("a", "one"), ("b", "two"), ("c", "one")):
        config = settings_of()
        config["module"]["teacher"] = {"folder": folder}
        pairs[name] = DistilledRun(folder=tmp_path / name, config=config)
    assert are_of_different_teachers(pairs["a"], pairs["b"]) and not are_of_different_teachers(pairs["a"], pairs["c"])


def test_the_base_is_what_the_others_are_variations_of(make_run: MakeRun) -> None:
    variations: Mapping[str, dict[str, Any]] = {
        "a_gan": {"adversarial": {"weight": 1}},
        "b_full": {},
        "c_slow": {"critic_steps_per_student_step": 10},
    }
    folders = [str(make_run(n, [f"experiment=distill/ablations/{n}"], **module)) for n, module in variations.items()]
    rows = rows_by_name(read_runs(folders))
    assert central_row(rows) == "b_full"
    assert differing_settings(rows["b_full"][0], rows["c_slow"][0]) == ["module.critic_steps_per_student_step"]
    with pytest.raises(ValueError, match="b_full, c_slow are equally near"):
        central_row({name: rows[name] for name in ("b_full", "c_slow")})


LOG = """step,student/video,critic/video,student_steps,critic_steps,speed/seconds_per_step,speed/teraflops
9,0.5,0.5,2,10,,
29,0.4,0.5,6,30,2.0,3.0
39,0.4,0.5,8,40,2.0,3.0
59,0.3,0.5,12,60,4.0,1.0
"""


def test_counters_and_cost_of_a_finished_run(make_run: MakeRun) -> None:
    """Two windows of 2 s at 3 TFLOP/s and 4 s at 1 TFLOP/s: 3 s and 5e12 operations a batch, 200 batches."""
    (run,) = read_runs([str(make_run("done", ["seed=3"], log=LOG))])
    assert (run.seed, run.student_steps, run.critic_steps, run.trouble) == (3, 40, 200, None)
    assert run.seconds == pytest.approx(600) and run.flops == pytest.approx(200 * 5e12)
    assert (run.num_devices, run.accelerator, run.sampler.num_steps) == (2, "gpu", 4)


def test_batches_count_for_the_cost_and_no_critic_has_no_steps(make_run: MakeRun) -> None:
    settings = {"critic_flow": None, "critic_steps_per_student_step": 1, "batches_per_turn": 4}
    (run,) = read_runs([str(make_run("ode", log=LOG, **settings))])
    assert (run.student_steps, run.critic_steps, run.seconds) == (40, 0, 480)


def test_a_run_without_logs_has_no_cost(make_run: MakeRun) -> None:
    (run,) = read_runs([str(make_run("quiet"))])
    assert run.seconds is None and run.flops is None and run.trouble is None


def test_a_run_that_ended_early_says_why(make_run: MakeRun) -> None:
    folder = make_run("stopped", steps=12, log=LOG)
    alarm = {"student_steps": 12, "monitor": "student/gradient_norm", "observed": 12345.0}
    (folder / "monitors.jsonl").write_text(json.dumps(alarm) + "\n" + '{"student_st')
    (run,) = read_runs([str(folder)])
    assert run.is_done
    assert run.trouble == "stopped after 12 of 40 student steps; monitor student/gradient_norm: 1.234e+04 at step 12"


def test_a_run_without_a_model_says_how_far_it_came(make_run: MakeRun) -> None:
    log = LOG + "79,nan,inf,16,80,,\n"
    (run,) = read_runs([str(make_run("broken", steps=None, log=log))])
    assert not run.is_done and (run.student_steps, run.critic_steps) == (16, 80)
    assert run.trouble is not None
    assert run.trouble.startswith("unfinished or failed: 16 of 40 student steps are logged, and there is no model")
    assert "student/video is not finite since batch 79; critic/video is not finite since batch 79" in run.trouble
    (unborn,) = read_runs([str(make_run("unborn", steps=None))])
    assert unborn.trouble is not None and "failed at its start, or has not begun" in unborn.trouble


def test_what_the_student_was_trained_with_counts(make_run: MakeRun) -> None:
    """A later call with other settings has found the model there, and done nothing."""
    folder = make_run("again", ["seed=1"])
    (folder / "config.yaml").write_text(yaml.safe_dump(settings_of(9)))
    (run,) = read_runs([str(folder)])
    assert run.seed == 1


def test_another_student_has_another_folder_of_clips(make_run: MakeRun) -> None:
    (first,) = read_runs([str(make_run("first"))])
    (second,) = read_runs([str(make_run("second"))])
    asked = {"split": "test", "shards": "shards", "seed": 0}
    name = first.clips_name(**asked)
    assert name.startswith("test-seed-0-") and name == first.clips_name(**asked)
    others = [second.clips_name(**asked), *(first.clips_name(**(asked | c)) for c in ({"seed": 1}, {"shards": "b"}))]
    assert len({name, *others}) == 4


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("_target_: hh_train.stages.pretrain.run\n")
    with pytest.raises(ValueError, match="holds no run of `hh-train distill`"):
        read_runs([str(tmp_path)])


def test_a_run_without_a_sampler_is_named(make_run: MakeRun) -> None:
    (run,) = read_runs([str(make_run("old", rollout=None))])
    with pytest.raises(ValueError, match=r"old: its config\.yaml names no sampler"):
        _ = run.sampler
