"""Fine-tuning from its configuration: what it says first, what it trains, what it leaves for other tools."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hh_train import cli
from hh_train.data.packing import pack
from hh_train.data.shards.format import read_latent_clips
from hh_train.model.checkpoint import is_matrix_product_weight, load_model
from hh_train.model.lora import attach_file, folder_fingerprint, read_adapter
from hh_train.training.checkpoints import PROVENANCE_FILE, Provenance
from hh_train.training.dmd2.preconditions import load_teacher
from hh_train.training.finetune.export import FILES
from hh_train.training.finetune.guards import Survey

Run = Callable[..., Path]
SMALL = (
    "trainer.logger=false", "+trainer.enable_progress_bar=false", "trainer.max_steps=3", "trainer.val_check_interval=2",
    "datamodule.tokens_per_batch=100", "samples=null", "voice=null", "module.base.compute_dtype=float32",
    "module.optimizer.learning_rate=1e-2", "module.optimizer.warmup_steps=0",
    "trainer.callbacks=[{_target_:lightning.pytorch.callbacks.ModelCheckpoint,dirpath:${output}/checkpoints,"
    "save_last:true,save_top_k:0,every_n_train_steps:1}]",
)  # fmt: skip
RULES = "module.adapters.rules=[{_target_:hh_train.model.lora.targets.AdapterRule,rank:2}]"
"""Ranks that matrices of 32 columns may have."""
RATES = "_target_:hh_train.training.finetune.rates.LayerwiseRates"
ADAPTERS = ("experiment=finetune/lora", RULES)


@pytest.fixture(scope="session")
def finetune(run_stage: Callable[..., Path], teacher: Path, road: Path) -> Run:
    def run(name: str, *overrides: str) -> Path:
        return run_stage("finetune", *SMALL, f"output={road}/tuned/{name}", *overrides)

    return run


@pytest.fixture(scope="session")
def adapted(finetune: Run) -> Path:
    """The checkpoint folder of a run with adapters."""
    return finetune("adapted", *ADAPTERS, "export.trigger_word=number")


def changed(before: Path, after: Path) -> set[str]:
    ours, theirs = load_model(before).state_dict(), load_model(after).state_dict()
    assert ours.keys() == theirs.keys()
    return {name for name, tensor in ours.items() if not torch.equal(tensor, theirs[name])}


def test_adapters_change_the_layers_matrix_products_alone(adapted: Path, teacher: Path) -> None:
    names = changed(teacher, adapted)
    assert names == {name for name in load_model(teacher).state_dict() if is_matrix_product_weight(name)}


def test_the_checkpoint_says_where_it_comes_from(adapted: Path, teacher: Path) -> None:
    ours, before = Provenance.read(adapted), Provenance.read(teacher)
    assert ours is not None and before is not None
    assert (ours.stage, ours.num_steps, ours.is_student) == ("finetune", 3, False)
    assert (ours.tokenizers, ours.frames_per_second, ours.samples_per_second) == (before.tokenizers, 25.0, 16_000)
    load_teacher(str(adapted))  # it can be distilled


@pytest.mark.parametrize("style", FILES)
def test_each_file_makes_of_the_base_what_was_trained(adapted: Path, teacher: Path, road: Path, style: str) -> None:
    clips = [clip for clip, _ in read_latent_clips(road / "shards", "validation")]
    batch = pack(clips, patch=(1, 2, 2)).float()
    base = load_model(teacher, compute_dtype="float32")
    before = base(batch)
    found = attach_file(base, "mine", adapted.parent / "adapter" / FILES[style])
    assert (found.style, found.record.trigger_word) == (style, "number")
    assert found.record.base == folder_fingerprint(teacher)
    assert found.record.scores["validation/audio"] > 0
    assert found.record.config["steps"] == 3
    here, merged = base(batch), load_model(adapted, compute_dtype="float32")(batch)
    for name in ("video", "audio"):
        difference = (getattr(here, name) - getattr(merged, name)).abs().max()
        moved = (getattr(here, name) - getattr(before, name)).abs().max()
        assert difference <= 1e-5
        assert moved > 1e-3


def test_checkpoints_hold_no_frozen_weights(adapted: Path) -> None:
    names = torch.load(adapted.parent / "checkpoints" / "last.ckpt", weights_only=False)["state_dict"]
    assert names and all(".adapters." in name for name in names)


def test_a_second_run_does_nothing(adapted: Path, finetune: Run, times: Callable[[Path], dict[Path, int]]) -> None:
    before = {file: time for file, time in times(adapted.parent).items() if file.name != "config.yaml"}
    assert finetune("adapted", *ADAPTERS, "export.trigger_word=number") == adapted
    assert {file: time for file, time in times(adapted.parent).items() if file.name != "config.yaml"} == before


def test_a_dry_run_reads_no_weights(
    finetune: Run, road: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("weights are read")

    for name in ("load_model", "load_frozen"):
        monkeypatch.setattr(f"hh_train.training.finetune.base.{name}", fail)
    survey = finetune("dry", *ADAPTERS, "dry_run=true", "export.trigger_word=zebra")
    assert isinstance(survey, Survey)
    assert (survey.sets[0].num_clips, survey.num_steps) == (6, 3)
    assert {file.name for file in (road / "tuned" / "dry").iterdir()} == {"config.yaml", "plan.json"}
    plan = json.loads((road / "tuned" / "dry" / "plan.json").read_text())
    assert plan["survey"]["trained_parameters"] == survey.trained_parameters > 0
    assert plan["cost"]["peak_bytes"] > 4 * survey.trained_parameters and plan["cost"]["step_flops"] > 0
    assert any("'zebra' is in 0 of 6 captions" in warning for warning in plan["warnings"])
    told = capsys.readouterr().out
    assert "Clips by size and length" in told and "warning: the trigger word" in told


def test_parts_may_be_frozen(finetune: Run, teacher: Path) -> None:
    """Shares by pattern; the average is exported."""
    rates = f"module.rates={{{RATES},shares:{{*:0,final_linear_*:1}}}}"
    tuned = finetune("parts", rates, "module.ema_decay=0.5")
    names = {"final_linear_video.weight", "final_linear_audio.weight"}
    assert changed(teacher, tuned) == names


def test_other_sets_are_mixed_in(finetune: Run, teacher: Path, road: Path) -> None:
    tuned = finetune("prior", "experiment=finetune/full", f"paths.prior={road}/shards", "trainer.max_steps=2")
    names = changed(teacher, tuned)
    assert names and not any(name.startswith("adapter.") for name in names)
    sets = json.loads((tuned.parent / "plan.json").read_text())["survey"]["sets"]
    assert [one["clips_per_epoch"] for one in sets] == [6, 6]


def test_samples_and_the_voice_are_beside_the_base(run_stage: Callable[..., Path], teacher: Path, road: Path) -> None:
    quick = ("+samples.num_clips=1", "samples.every_steps=3", "samples.solver.num_steps=2")
    watching = [one for one in SMALL if not one.startswith(("samples", "voice"))]
    run_stage("finetune", *watching, *ADAPTERS, *quick, f"output={road}/tuned/watched")
    folders = sorted(path.parent.name for path in (road / "tuned" / "watched" / "samples").rglob("*.mp4"))
    assert folders == ["step-0000000", "step-0000003"]
    records = [json.loads(line) for line in (road / "tuned" / "watched" / "voice.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [0, 2]
    assert records[0]["audio_loss"] == records[0]["base"]["audio_loss"] != records[1]["audio_loss"]


def test_a_student_stays_one(finetune: Run, student: Path, teacher: Path) -> None:
    tuned = finetune("student", "experiment=finetune/student", RULES, "module.noise_levels.num_steps=2")
    provenance = Provenance.read(tuned)
    assert provenance is not None and provenance.is_student
    with pytest.raises(ValueError, match="is a distilled student"):
        load_teacher(str(tuned))
    with pytest.raises(ValueError, match="is a distilled student itself"):
        finetune("no_teacher", "experiment=finetune/student", RULES, f"teacher={student}")


def test_a_base_of_other_latents_is_refused(finetune: Run, teacher: Path, road: Path) -> None:
    for field, value, said in (
        ("tokenizers", {"video": "x", "audio": "y", "text": "z"}, "video"),
        ("frames_per_second", 24.0, "was trained at 24 frames per second, these shards have 25"),
        ("samples_per_second", 51_200, "was trained at 51200 samples per second, these shards have 16000"),
    ):
        other = road / f"other_{field}"
        shutil.copytree(teacher, other)
        stored = json.loads((other / PROVENANCE_FILE).read_text())
        (other / PROVENANCE_FILE).write_text(json.dumps({**stored, field: value}))
        with pytest.raises(ValueError, match=said):
            finetune(f"from_{field}", *ADAPTERS, f"checkpoint={other}")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("trainer.max_steps=-1",), "wanted how many steps to train"),
        (("checkpoint=nowhere",), "nowhere holds no checkpoint"),
        (("quantization=nf4",), "got quantization=nf4 and offload=False without adapters"),
        (("experiment=finetune/lora", RULES.replace("rank:2", "rank:40")), "rank 40 is over that of"),
        ((*ADAPTERS, f"module.rates={{{RATES}}}"), "got adapters and rates"),
        ((f"module.rates={{{RATES},shares:{{final.*:0}}}}",), "near: "),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together(finetune: Run, overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        finetune("unfit", *overrides)


@pytest.mark.parametrize("quantization", ["bfloat16", "float8", "int8", "nf4"])
def test_adapters_learn_beside_weights_in_fewer_bits(finetune: Run, teacher: Path, quantization: str) -> None:
    """The merged checkpoint has the base's own weights, with the adapter's change in the products alone."""
    tuned = finetune(quantization, *ADAPTERS, f"quantization={quantization}", "trainer.max_steps=1")
    assert all(is_matrix_product_weight(name) for name in changed(teacher, tuned))
    weights = read_adapter(tuned.parent / "adapter" / "kohya.safetensors", load_model(teacher).config).weights
    change = max(float((pair.up @ pair.down).abs().max()) for pair in weights.values())
    difference = max(
        float((ours - theirs).abs().max())
        for ours, theirs in zip(
            load_model(teacher).state_dict().values(), load_model(tuned).state_dict().values(), strict=True
        )
    )
    assert 0 < difference == pytest.approx(change, rel=1e-3)


def test_a_run_whose_voice_goes_is_ended(run_stage: Callable[..., Path], teacher: Path, road: Path) -> None:
    """At the second validation; the first, before any step, is the base's."""
    watching = [one for one in SMALL if not one.startswith("voice")]
    limits = ("+voice.most_loss_ratio=0.0", "+voice.patience=2", "trainer.max_steps=50")
    folder = run_stage("finetune", *watching, *ADAPTERS, *limits, f"output={road}/tuned/ended")
    provenance = Provenance.read(folder)
    assert provenance is not None and provenance.num_steps == 2


def test_a_loss_that_has_risen_is_told(finetune: Run, caplog: pytest.LogCaptureFixture) -> None:
    """At a rate at which nothing can be learnt."""
    with caplog.at_level("WARNING"):
        finetune("by_heart", *ADAPTERS, "module.optimizer.learning_rate=30.0", "trainer.max_steps=4")
    assert any("was lowest before the first step" in record.message for record in caplog.records)


def test_two_clips_are_enough(run_stage: Callable[..., Path], teacher: Path, road: Path, tiny_shards: Path) -> None:
    """None of them is held out: what is trained on is sampled then, with a warning."""
    clips = road / "two_clips"
    clips.mkdir()
    for file in (tiny_shards.parent / "footage" / "train").glob("train-[01].*"):
        shutil.copy(file, clips)
    shards = road / "two_shards"
    sizes = ("size=[32,32]", "max_frames=9", "reconstruct_clips=0")
    manifest = cli.run_stage("tokenize", f"footage={clips}", f"codecs={road}/shards", f"output={shards}", *sizes)
    assert manifest.splits == ("train",)
    watching = [one for one in SMALL if not one.startswith(("samples", "voice"))]
    quick = ("+samples.num_clips=1", "samples.every_steps=3", "samples.solver.num_steps=2", f"paths.shards={shards}")
    run_stage("finetune", *watching, *ADAPTERS, *quick, f"output={road}/tuned/of_two")
    assert len(list((road / "tuned" / "of_two" / "samples").rglob("*.mp4"))) == 2
    plan = json.loads((road / "tuned" / "of_two" / "plan.json").read_text())
    assert any("no clip is held out" in warning for warning in plan["warnings"])
