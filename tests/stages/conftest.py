"""The road from shards to a student, walked once: each stage is composed, checked, recorded and run as the command line
does it, on a model of two narrow layers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hh_train.model.checkpoint import load_model
from hh_train.model.lora import (
    AdapterRecipe,
    AdapterRecord,
    AdapterRule,
    attach_adapter,
    folder_fingerprint,
    write_adapter,
)
from hh_train.runtime.composition import compose_config
from hh_train.runtime.config import config_faults, instantiate
from hh_train.runtime.overrides import quote_odd_values
from hh_train.runtime.records import save_config
from hh_train.runtime.seeds import seed_everything

TINY_MODEL = (
    "module.model.config={_target_:hh_train.model.config.ModelConfig,num_layers:2,hidden_size:32,head_dim:16,"
    "num_query_groups:1,video_in_channels:12,audio_in_channels:5,text_in_channels:20,mm_layers:[0],gelu7_layers:[0],"
    "patch:[1,2,2]}"
)
SAMPLES = (
    "{_target_:hh_train.training.callbacks.SampleClips,shards:${paths.shards},output:${output}/samples,every_steps:3,"
    "num_clips:1,solver:{_target_:hh_train.flow.solvers.RenoiseSolver,num_steps:2},"
    "guidance:{_target_:hh_train.flow.guidance.Guidance}}"
)
SAVE = (
    "{_target_:lightning.pytorch.callbacks.ModelCheckpoint,dirpath:${output}/checkpoints,save_last:true,save_top_k:0,"
    "every_n_train_steps:1}"
)
TINY_RUN = (
    "trainer.logger=false",
    "+trainer.enable_progress_bar=false",
    f"trainer.callbacks=[{SAVE},{SAMPLES}]",
    "datamodule.tokens_per_batch=100",
)

StageRunner = Callable[..., Any]


@pytest.fixture(scope="session")
def road(tmp_path_factory: pytest.TempPathFactory, tiny_shards: Path) -> Path:
    """The folder that everything is written to; `shards` are there."""
    folder = tmp_path_factory.mktemp("road")
    (folder / "shards").symlink_to(tiny_shards)
    return folder


@pytest.fixture(scope="session")
def run_stage(road: Path) -> StageRunner:
    def run(stage: str, *overrides: str) -> Any:
        config = compose_config(stage, quote_odd_values([f"paths.root={road}", *overrides]))
        faults = config_faults(config)
        assert not faults, "\n".join(map(str, faults))
        seed_everything(config.seed)
        save_config(config, Path(config.output))
        return instantiate(config)

    return run


@pytest.fixture(scope="session")
def pretrain(run_stage: StageRunner) -> StageRunner:
    def run(*overrides: str) -> Any:
        steps = ("trainer.max_steps=3", "trainer.val_check_interval=2")
        return run_stage("pretrain", TINY_MODEL, *TINY_RUN, *steps, *overrides)

    return run


@pytest.fixture(scope="session")
def distill(run_stage: StageRunner) -> StageRunner:
    def run(*overrides: str) -> Any:
        steps = ("module.num_student_steps=2", "module.critic_steps_per_student_step=2")
        return run_stage("distill", *TINY_RUN, *steps, "module.rollout.sampler.num_steps=2", *overrides)

    return run


@pytest.fixture(scope="session")
def teacher(pretrain: StageRunner) -> Path:
    """The checkpoint folder of a pretraining run."""
    return pretrain()


@pytest.fixture(scope="session")
def student(distill: StageRunner, teacher: Path) -> Path:
    """The checkpoint folder of a distillation run."""
    return distill()


@pytest.fixture(scope="session")
def student_look(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of an adapter that changes what the student makes."""
    model = load_model(student)
    adapters = attach_adapter(model, "look", AdapterRecipe(rules=(AdapterRule(rank=2),)))
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    record = AdapterRecord(base=folder_fingerprint(student), trigger_word="ohwx")
    return write_adapter(model, adapters, tmp_path_factory.mktemp("look") / "look.safetensors", record=record)


def modification_times(folder: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="session")
def times() -> Callable[[Path], dict[Path, int]]:
    """When each file of a folder was written."""
    return modification_times
