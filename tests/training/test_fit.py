"""A run as a whole: what stops it does not change what it ends with, and what is done is not done again."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file

from hh_train.data.datamodule import LatentDataModule
from hh_train.data.shards.manifest import Manifest
from hh_train.flow.noise_levels import ShiftedUniform
from hh_train.model.config import ModelConfig
from hh_train.model.transformer import SandwichTransformer
from hh_train.training.checkpoints import Provenance
from hh_train.training.fit import fit_and_export
from hh_train.training.flow_module import FlowMatchingModule
from hh_train.training.optim import AdamWRecipe

NUM_STEPS = 5


class Cut(Callback):
    """Ends the run in the middle of a step."""

    def __init__(self, reason: BaseException, *, in_step: int) -> None:
        self.reason = reason
        self.in_step = in_step

    def on_before_optimizer_step(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self.in_step:
            raise self.reason


class Steps(Callback):
    """Counts the batches that a process has trained on."""

    def __init__(self) -> None:
        self.count = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        self.count += 1


def run(shards: Path, config: ModelConfig, output: Path, *callbacks: Callback, seed: int = 0) -> Path:
    """As a new process would: everything is built anew, from weights drawn with `seed`."""
    torch.manual_seed(seed)
    module = FlowMatchingModule(
        model=SandwichTransformer(config=config, compute_dtype="float32"),
        noise_levels=ShiftedUniform(),
        optimizer=AdamWRecipe(learning_rate=1e-2, warmup_steps=2, final_share=0.1),
        ema_decay=0.5,
    )
    save = ModelCheckpoint(dirpath=output / "checkpoints", save_last=True, save_top_k=0, every_n_train_steps=1)
    trainer = Trainer(
        accelerator="cpu", max_steps=NUM_STEPS, max_epochs=-1, logger=False, callbacks=[save, *callbacks],
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
        check_val_every_n_epoch=None, val_check_interval=2,
    )  # fmt: skip
    # A budget of some clips, so that an epoch ends in the middle of the run.
    data = LatentDataModule(shards=str(shards), patch=(1, 2, 2), tokens_per_batch=100, seed=3)
    return fit_and_export(module, data, trainer, output=str(output), stage="pretrain")


@pytest.fixture
def config(shards_model: SandwichTransformer) -> ModelConfig:
    return shards_model.config


@pytest.fixture
def interrupt_handler() -> Iterator[None]:
    """Lightning ignores further interrupts after the first, for the rest of the process."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("interrupt_handler")
@pytest.mark.parametrize(("step", "reason"), [(1, OSError), (3, OSError), (2, KeyboardInterrupt)])
def test_a_run_that_was_cut_off_ends_with_the_same_weights(
    tiny_shards: Path, config: ModelConfig, tmp_path: Path, step: int, reason: type[BaseException]
) -> None:
    whole = run(tiny_shards, config, tmp_path / "whole")
    cut = tmp_path / "cut"
    with pytest.raises(reason):
        run(tiny_shards, config, cut, Cut(reason("no power"), in_step=step))
    assert not (cut / "model").exists()
    steps = Steps()
    resumed = run(tiny_shards, config, cut, steps, seed=1)
    assert steps.count == NUM_STEPS - step
    wanted, got = (load_file(folder / "model.safetensors") for folder in (whole, resumed))
    for name, tensor in wanted.items():
        assert torch.equal(got[name], tensor), name
    assert Provenance.read(resumed) == Provenance.read(whole)


def test_weights_come_from_the_seed_and_from_training(tiny_shards: Path, config: ModelConfig, tmp_path: Path) -> None:
    """What makes the test above worth something: another seed gives other weights, and the norms have moved."""
    one, other = (
        load_file(run(tiny_shards, config, tmp_path / str(seed), seed=seed) / "model.safetensors") for seed in (0, 1)
    )
    name = "block.layers.1.mlp.down_proj.weight"
    assert not torch.allclose(one[name], other[name], atol=1e-3)
    assert one["final_norm_video.weight"].abs().max() > 1e-3  # zero in a fresh model


def test_the_export_says_where_it_comes_from(tiny_shards: Path, config: ModelConfig, tmp_path: Path) -> None:
    folder = run(tiny_shards, config, tmp_path)
    assert folder == tmp_path / "model"
    provenance = Provenance.read(folder)
    assert provenance is not None
    assert (provenance.stage, provenance.num_steps) == ("pretrain", NUM_STEPS)
    assert provenance.tokenizers == Manifest.load(tiny_shards).fingerprints()


def test_a_run_that_is_done_is_left_alone(tiny_shards: Path, config: ModelConfig, tmp_path: Path) -> None:
    folder = run(tiny_shards, config, tmp_path)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    steps = Steps()
    assert run(tiny_shards, config, tmp_path, steps, seed=1) == folder
    assert steps.count == 0
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before


def test_a_run_that_was_killed_while_it_exported_exports(
    tiny_shards: Path, config: ModelConfig, tmp_path: Path
) -> None:
    folder = run(tiny_shards, config, tmp_path)
    wanted = (folder / "model.safetensors").read_bytes()
    folder.rename(tmp_path / "model.unfinished")
    (tmp_path / "model.unfinished" / "provenance.json").unlink()
    steps = Steps()
    assert run(tiny_shards, config, tmp_path, steps, seed=1) == folder
    assert steps.count == 0
    assert (folder / "model.safetensors").read_bytes() == wanted
    assert Provenance.read(folder) is not None and not (tmp_path / "model.unfinished").exists()


def test_a_run_on_other_data_order_is_refused(tiny_shards: Path, config: ModelConfig, tmp_path: Path) -> None:
    run(tiny_shards, config, tmp_path)
    shutil.rmtree(tmp_path / "model")
    checkpoint = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=False)
    checkpoint["LatentDataModule"]["seed"] = 4
    torch.save(checkpoint, tmp_path / "checkpoints" / "last.ckpt")
    with pytest.raises(ValueError, match="the checkpoint's data seed is 4, this run's is 3"):
        run(tiny_shards, config, tmp_path)
