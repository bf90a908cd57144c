"""DMD2 as a whole: cadence, what trains and what does not, resume, and a student that reaches a known distribution."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file
from torch.utils.data import DataLoader, IterableDataset

from hh_train.data.packing import pack
from hh_train.flow.clip_noise import ClipNoise
from hh_train.flow.guidance import Guidance
from hh_train.flow.noise_levels import ShiftedUniform
from hh_train.flow.solvers import RenoiseSolver
from hh_train.model.transformer import SandwichTransformer
from hh_train.training.dmd2.module import DMD2Module
from hh_train.training.dmd2.rollout import BackwardSimulation
from hh_train.training.optim import AdamWRecipe
from hh_train.types import LatentClip, PackedBatch

Make = Callable[..., LatentClip]


class Batches(IterableDataset[PackedBatch]):
    """The same pack without end."""

    def __init__(self, clips: list[LatentClip]) -> None:
        self.batch = pack(clips, patch=(1, 2, 2))

    def __iter__(self) -> Iterator[PackedBatch]:
        while True:
            yield self.batch


class StopAt(Callback):
    """Ends a run after so many batches, in the middle of a cadence."""

    def __init__(self, num_batches: int) -> None:
        self.num_batches = num_batches

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        trainer.should_stop = trainer.fit_loop.total_batch_idx + 1 >= self.num_batches


def make_module(teacher: SandwichTransformer, **changes: object) -> DMD2Module:
    arguments = {
        "teacher": teacher,
        "null_text": torch.zeros(2, 7),
        "rollout": BackwardSimulation(sampler=RenoiseSolver(num_steps=2)),
        "guidance": Guidance(video=2.0, audio=2.0),
        "noise_levels": ShiftedUniform(),
        "student_optimizer": AdamWRecipe(learning_rate=1e-3),
        "critic_optimizer": AdamWRecipe(learning_rate=1e-3),
        "num_student_steps": 3,
        "critic_steps_per_student_step": 2,
        "ema_decay": 0.5,
    }
    return DMD2Module(**(arguments | changes))


def fit(module: DMD2Module, clips: list[LatentClip], *callbacks: object, checkpoint: str | None = None) -> Trainer:
    trainer = Trainer(
        accelerator="cpu", max_steps=-1, max_epochs=-1, logger=False, callbacks=list(callbacks),
        enable_checkpointing=bool(callbacks), enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    loader = DataLoader(Batches(clips), batch_size=None)
    trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=False)
    return trainer


@pytest.mark.parametrize("ratio", [1, 2, 5])
def test_optimizer_steps_of_each_network(tiny_model: SandwichTransformer, make_clip: Make, ratio: int) -> None:
    module = make_module(tiny_model, critic_steps_per_student_step=ratio)
    trainer = fit(module, [make_clip("a")])
    assert (module.student_steps, module.critic_steps) == (3, 3 * ratio)
    assert trainer.global_step == 3 + 3 * ratio
    moments = [next(iter(optimizer.state.values()))["step"].item() for optimizer in trainer.optimizers]
    assert moments == [3, 3 * ratio]


def test_student_and_critic_train_and_the_teacher_does_not(tiny_model: SandwichTransformer, make_clip: Make) -> None:
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    module = make_module(tiny_model)
    fit(module, [make_clip("a"), make_clip("b", num_given_frames=1, seed=1)])
    for name, tensor in module.teacher.state_dict().items():
        assert torch.equal(tensor, before[name])
    key = "block.layers.1.mlp.down_proj.weight"
    student, critic, exported = (
        network.state_dict()[key] for network in (module.student, module.critic, module.exported_model)
    )
    for one, other in ((student, before[key]), (critic, before[key]), (student, critic), (exported, student)):
        assert not torch.equal(one, other)


def test_checkpoints_leave_the_teacher_out_and_resume_to_the_same_weights(
    tiny_model: SandwichTransformer, make_clip: Make, tmp_path: Path
) -> None:
    clips = [make_clip("a"), make_clip("b", audio=9, seed=1)]
    whole = make_module(tiny_model, num_student_steps=4)
    fit(whole, clips)
    save = ModelCheckpoint(dirpath=tmp_path, save_last=True, save_top_k=0, every_n_train_steps=1)
    fit(make_module(tiny_model, num_student_steps=4), clips, StopAt(5), save)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert not any(key.startswith("teacher") for key in saved["state_dict"])
    assert saved["dmd2_steps"] == {"student": 2, "critic": 5}
    resumed = make_module(tiny_model, num_student_steps=4)
    fit(resumed, clips, checkpoint=str(tmp_path / "last.ckpt"))
    assert (resumed.student_steps, resumed.critic_steps) == (4, 8)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_a_run_that_is_resumed_from_its_end_takes_no_more_steps(
    tiny_model: SandwichTransformer, make_clip: Make, tmp_path: Path
) -> None:
    save = ModelCheckpoint(dirpath=tmp_path, save_last=True, save_top_k=0, every_n_train_steps=1)
    done = make_module(tiny_model, critic_steps_per_student_step=1)
    fit(done, [make_clip("a")], save)
    resumed = make_module(tiny_model, critic_steps_per_student_step=1)
    fit(resumed, [make_clip("a")], checkpoint=str(tmp_path / "last.ckpt"))
    assert (resumed.student_steps, resumed.critic_steps) == (3, 3)
    for name, tensor in done.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_no_critic_steps(tiny_model: SandwichTransformer) -> None:
    with pytest.raises(ValueError, match="at least 1 critic step"):
        make_module(tiny_model, critic_steps_per_student_step=0)


def test_matching_follows_the_guided_teacher(tiny_model: SandwichTransformer, make_clip: Make) -> None:
    """At the start critic and teacher agree, so without guidance there is no direction, and with it there is."""
    batch = pack([make_clip("a")], patch=(1, 2, 2))
    generated = (torch.randn_like(batch.video), torch.randn_like(batch.audio))
    directions = {}
    for scale in (1.0, 3.0):
        module = make_module(tiny_model, guidance=Guidance(video=scale, audio=scale))
        directions[scale] = module.matching_gradients(batch, generated, ClipNoise(batch, seed=0, purpose="test"))
    for modality in range(2):
        assert directions[1.0][modality].abs().max() < 1e-4
        assert directions[3.0][modality].abs().max() > 1e-2


@pytest.mark.parametrize("network", ["student", "averaged", "critic"])
def test_two_ranks_train_as_one_process_with_both_clips(one_process: Path, two_ranks: Path, network: str) -> None:
    """Up to a tenth of a step of 1e-3: where a gradient is nearly zero, Adam makes rounding errors larger."""
    alone, together = (load_file(folder / network / "model.safetensors") for folder in (one_process, two_ranks))
    assert together.keys() == alone.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, atol=1e-4, rtol=0, msg=name)
        assert (together[name] - tensor).abs().mean() < 1e-6, name
