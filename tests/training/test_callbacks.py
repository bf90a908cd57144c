"""What watches a run: rates that fit together, and samples at their intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, IterableDataset

from hh_train.data.datamodule import LatentDataModule
from hh_train.data.media.files import MediaReader
from hh_train.data.packing import pack
from hh_train.data.shards.format import read_null_text
from hh_train.flow.guidance import Guidance
from hh_train.flow.noise_levels import ShiftedUniform
from hh_train.flow.solvers import RenoiseSolver
from hh_train.model.transformer import SandwichTransformer
from hh_train.training.callbacks import SampleClips, Throughput, matmul_teraflops
from hh_train.training.dmd2.critic import CriticFlow
from hh_train.training.dmd2.matching import DistributionMatching
from hh_train.training.dmd2.module import DMD2Module
from hh_train.training.dmd2.rollout import BackwardSimulation
from hh_train.training.flow_module import FlowMatchingModule
from hh_train.training.optim import AdamWRecipe
from hh_train.types import LatentClip, PackedBatch

FIRST_SECONDS, STEP_SECONDS = 0.5, 0.02


class SlowBatches(IterableDataset[PackedBatch]):
    """The same pack without end, at a known pace after a slow start."""

    def __init__(self, batch: PackedBatch) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[PackedBatch]:
        time.sleep(FIRST_SECONDS)
        while True:
            time.sleep(STEP_SECONDS)
            yield self.batch


class Reports(Callback):
    """Collects the metrics of every step."""

    def __init__(self) -> None:
        self.metrics: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        self.metrics.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def fit(module: LightningModule, data: DataLoader | LatentDataModule, *callbacks: Callback, max_steps: int) -> Trainer:
    trainer = Trainer(
        accelerator="cpu", max_steps=max_steps, max_epochs=-1, logger=False, callbacks=list(callbacks),
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        limit_val_batches=0, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, data)
    return trainer


@pytest.fixture
def batch(make_clip: Callable[..., LatentClip]) -> PackedBatch:
    return pack([make_clip("a"), make_clip("b", audio=9, seed=1)], patch=(1, 2, 2))


@pytest.fixture
def module(tiny_model: SandwichTransformer) -> FlowMatchingModule:
    return FlowMatchingModule(
        model=tiny_model, noise_levels=ShiftedUniform(), optimizer=AdamWRecipe(learning_rate=1e-4)
    )


def test_rates_fit_together(module: FlowMatchingModule, batch: PackedBatch) -> None:
    reports = Reports()
    throughput = Throughput(every_steps=3, peak_teraflops=2.0)
    fit(module, DataLoader(SlowBatches(batch), batch_size=None), throughput, reports, max_steps=8)
    reported = ["speed/mfu" in metrics for metrics in reports.metrics]
    assert reported == [False] * 3 + [True] * 5  # the first step is left out, then three are measured
    first, second = reports.metrics[3], reports.metrics[6]
    assert first["speed/seconds_per_step"] != second["speed/seconds_per_step"]
    for speed in (first, second):
        seconds = speed["speed/seconds_per_step"]
        assert STEP_SECONDS < seconds < FIRST_SECONDS
        assert speed["speed/clips_per_second"] == pytest.approx(batch.num_clips / seconds, rel=1e-4)
        assert speed["speed/tokens_per_second"] == pytest.approx(batch.num_tokens / seconds, rel=1e-4)
        assert speed["speed/teraflops"] == pytest.approx(
            3 * module.model.forward_flops(batch) / seconds / 1e12, rel=1e-4
        )
        assert speed["speed/mfu"] == pytest.approx(speed["speed/teraflops"] / 2.0, rel=1e-4)


def test_the_peak_is_measured_when_it_is_not_known(module: FlowMatchingModule, batch: PackedBatch) -> None:
    reports = Reports()
    throughput = Throughput(every_steps=1)
    fit(module, DataLoader(SlowBatches(batch), batch_size=None), throughput, reports, max_steps=2)
    speed = reports.metrics[-1]
    assert 0 < speed["speed/mfu"] < 0.1  # the model is far too small to keep a processor busy
    assert speed["speed/teraflops"] / speed["speed/mfu"] == pytest.approx(throughput.peak_teraflops, rel=1e-4)


def test_matrix_products_have_a_rate() -> None:
    assert 1e-3 < matmul_teraflops(torch.device("cpu"), torch.float32) < 1e3


def test_samples_are_made_once_an_interval_also_when_steps_are_jumped(
    shards_model: SandwichTransformer, tiny_shards: Path, tmp_path: Path
) -> None:
    """With one student step to two critic steps, the trainer counts 1, 3, 4, 6, 7, 9, 10, 12 optimizer steps."""
    module = DMD2Module(
        teacher=shards_model,
        null_text=read_null_text(tiny_shards),
        rollout=BackwardSimulation(sampler=RenoiseSolver(num_steps=1)),
        matching=DistributionMatching(),
        critic_flow=CriticFlow(),
        student_optimizer=AdamWRecipe(learning_rate=1e-2),
        critic_optimizer=AdamWRecipe(learning_rate=1e-2),
        num_student_steps=4,
        critic_steps_per_student_step=2,
        ema_decay=None,
    )
    samples = SampleClips(
        shards=str(tiny_shards), solver=RenoiseSolver(num_steps=1), guidance=Guidance(),
        output=str(tmp_path / "samples"), every_steps=5, num_clips=2,
    )  # fmt: skip
    data = LatentDataModule(shards=str(tiny_shards), patch=(1, 2, 2), tokens_per_batch=200)
    trainer = fit(module, data, samples, max_steps=-1)
    assert trainer.global_step == 12
    folders = sorted(folder.name for folder in (tmp_path / "samples").iterdir())
    assert folders == ["step-0000006", "step-0000010"]
    early, late = (sorted((tmp_path / "samples" / folder).iterdir()) for folder in folders)
    assert [file.name for file in early] == [file.name for file in late]
    assert len(early) == 2 and all(file.suffix == ".mp4" for file in early)
    clips = [MediaReader().read(files[0]) for files in (early, late)]
    assert clips[0].frames.shape == (9, 32, 32, 3) and clips[0].waveform is not None
    assert not torch.equal(clips[0].frames, clips[1].frames)  # the student has moved


def test_a_resumed_run_samples_when_an_undisturbed_one_would(
    shards_model: SandwichTransformer, tiny_shards: Path, tmp_path: Path
) -> None:
    def run(max_steps: int, checkpoint: Path | None) -> None:
        samples = SampleClips(
            shards=str(tiny_shards), solver=RenoiseSolver(num_steps=1), guidance=Guidance(),
            output=str(tmp_path / "samples"), every_steps=4, num_clips=1,
        )  # fmt: skip
        module = FlowMatchingModule(
            model=shards_model, noise_levels=ShiftedUniform(), optimizer=AdamWRecipe(learning_rate=1e-3)
        )
        trainer = Trainer(
            accelerator="cpu", max_steps=max_steps, max_epochs=-1, logger=False, callbacks=[samples],
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0,
        )  # fmt: skip
        data = LatentDataModule(shards=str(tiny_shards), patch=(1, 2, 2), tokens_per_batch=100)
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=False)
        trainer.save_checkpoint(tmp_path / "last.ckpt")

    run(6, None)
    run(9, tmp_path / "last.ckpt")
    folders = sorted(folder.name for folder in (tmp_path / "samples").iterdir())
    assert folders == ["step-0000004", "step-0000008"]


def test_sampling_leaves_training_as_it_is(
    shards_model: SandwichTransformer, tiny_shards: Path, tmp_path: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in shards_model.state_dict().items()}
    weights = []
    for every_steps in (1, 100):
        shards_model.load_state_dict(before)
        module = FlowMatchingModule(
            model=shards_model, noise_levels=ShiftedUniform(), optimizer=AdamWRecipe(learning_rate=1e-3)
        )
        samples = SampleClips(
            shards=str(tiny_shards), solver=RenoiseSolver(num_steps=1), guidance=Guidance(),
            output=str(tmp_path / str(every_steps)), every_steps=every_steps, num_clips=1,
        )  # fmt: skip
        data = LatentDataModule(shards=str(tiny_shards), patch=(1, 2, 2), tokens_per_batch=100)
        fit(module, data, samples, max_steps=3)
        weights.append({name: tensor.clone() for name, tensor in shards_model.state_dict().items()})
    assert len(list((tmp_path / "1").iterdir())) == 3 and not (tmp_path / "100").exists()
    for name, tensor in weights[0].items():
        assert torch.equal(weights[1][name], tensor), name
    assert not torch.equal(weights[0]["final_linear_video.weight"], before["final_linear_video.weight"])
