"""DMD2 as a whole: cadence, what trains and what does not, resume, and a student that reaches a known distribution."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.flop_counter import FlopCounterMode

from hh_train.data.packing import pack
from hh_train.flow.guidance import Guidance
from hh_train.flow.solvers import RenoiseSolver
from hh_train.model.config import ModelConfig
from hh_train.model.size import forward_flops
from hh_train.model.transformer import SandwichTransformer
from hh_train.training.dmd2.adapters import LowRank
from hh_train.training.dmd2.adversarial import Adversarial
from hh_train.training.dmd2.alignment import ImplicitAlignment
from hh_train.training.dmd2.critic import CriticFlow
from hh_train.training.dmd2.matching import DistributionMatching
from hh_train.training.dmd2.module import DMD2Module
from hh_train.training.dmd2.regression import OdeRegression
from hh_train.training.dmd2.rollout import BackwardSimulation
from hh_train.training.dmd2.turn_checkpoint import TurnCheckpoint
from hh_train.training.optim import AdamWRecipe
from hh_train.types import LatentClip, PackedBatch

Make = Callable[..., LatentClip]


class Batches(IterableDataset[PackedBatch]):
    """The same pack without end, or the same packs in turn."""

    def __init__(self, *packs: list[LatentClip]) -> None:
        self.batches = [pack(clips, patch=(1, 2, 2)) for clips in packs]

    def __iter__(self) -> Iterator[PackedBatch]:
        while True:
            yield from self.batches


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
        "matching": DistributionMatching(guidance=Guidance(video=2.0, audio=2.0)),
        "critic_flow": CriticFlow(),
        "student_optimizer": AdamWRecipe(learning_rate=1e-3),
        "critic_optimizer": AdamWRecipe(learning_rate=1e-3),
        "num_student_steps": 3,
        "critic_steps_per_student_step": 2,
        "ema_decay": 0.5,
    }
    return DMD2Module(**(arguments | changes))


def fit(
    module: DMD2Module, clips: list[LatentClip] | Batches, *callbacks: object, checkpoint: str | None = None
) -> Trainer:
    trainer = Trainer(
        accelerator="cpu", max_steps=-1, max_epochs=-1, logger=False, callbacks=list(callbacks),
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    batches = clips if isinstance(clips, Batches) else Batches(clips)
    loader = DataLoader(batches, batch_size=None)
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
    assert (saved["cadence"]["student_steps"], saved["cadence"]["critic_steps"]) == (2, 5)
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


@pytest.fixture(scope="module")
def killed_runs(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What killed_runs.py writes."""
    folder = tmp_path_factory.mktemp("killed")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "killed_runs.py"), str(tiny_shards), str(folder)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", ["in_a_critic_turn", "in_a_student_turn", "after_a_student_step"])
def test_a_killed_run_goes_on_bit_for_bit(killed_runs: Path, name: str) -> None:
    """Killed with SIGKILL and started again: every batch's losses and gradient norms, and the weights at the end."""

    def curve(run: str) -> list[tuple[list[int], dict[str, str]]]:
        lines = (killed_runs / f"{run}.jsonl").read_text().splitlines()
        return [tuple(json.loads(line)) for line in lines]

    whole, broken = curve("whole"), curve(name)
    assert len(whole) == 18 and len(broken) >= len(whole)  # some batches of the broken turn come twice
    expected = {tuple(place): values for place, values in whole}
    for place, values in broken:
        known = {key: value for key, value in values.items() if key in expected[tuple(place)]}
        assert {key: expected[tuple(place)][key] for key in known} == known, place
    assert {tuple(place) for place, _ in broken} == set(expected)
    weights, resumed = (torch.load(killed_runs / f"{run}.pt", weights_only=True) for run in ("whole", name))
    assert all(torch.equal(resumed[key], tensor) for key, tensor in weights.items())
    assert any(key.startswith("ema.") for key in weights) and any(key.startswith("discriminator.") for key in weights)


def test_gathered_batches_train_as_one_of_all_clips(tiny_model: SandwichTransformer, make_clip: Make) -> None:
    """The two have as many tokens, so that the mean of their means is the mean of all."""
    first, second = make_clip("a"), make_clip("b", seed=1)
    settings = {"num_student_steps": 2, "gradient_clip": None}
    gathered = make_module(tiny_model, batches_per_turn=2, **settings)
    trainer = fit(gathered, Batches([first], [second]))
    assert trainer.fit_loop.total_batch_idx + 1 == 8 and (gathered.student_steps, gathered.critic_steps) == (2, 4)
    at_once = make_module(tiny_model, **settings)
    fit(at_once, [first, second])
    assert_near(gathered, at_once)
    alone = make_module(tiny_model, **settings)
    fit(alone, [first])
    with pytest.raises(AssertionError):
        assert_near(alone, at_once)


def assert_near(one: DMD2Module, other: DMD2Module) -> None:
    """Up to a tenth of a step of 1e-3."""
    for name, tensor in other.state_dict().items():
        torch.testing.assert_close(one.state_dict()[name], tensor, atol=1e-4, rtol=0, msg=name)


class Steps(Callback):
    """Copies a tensor of the exported model after every batch."""

    def __init__(self) -> None:
        self.exported: list[torch.Tensor] = []
        self.student: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: DMD2Module, *_: object) -> None:
        key = "block.layers.1.mlp.down_proj.weight"
        for copies, model in ((self.exported, pl_module.exported_model), (self.student, pl_module.student)):
            copies.append(model.state_dict()[key].clone())


def test_the_average_begins_at_its_step(tiny_model: SandwichTransformer, make_clip: Make) -> None:
    """Until then the student itself is exported, at that step the average is a copy of it, later it lags behind."""
    steps = Steps()
    module = make_module(tiny_model, critic_steps_per_student_step=1, num_student_steps=4, ema_decay=0.9, ema_start=3)
    fit(module, [make_clip("a")], steps)
    same = [torch.equal(ours, theirs) for ours, theirs in zip(steps.exported, steps.student, strict=True)]
    assert same == [True, True, True, False]
    lagging = steps.student[2].lerp(steps.student[3], 1 - 2 / 11)  # the ramp's first decay is (1 + 1) / (10 + 1)
    torch.testing.assert_close(steps.exported[3], lagging)


@pytest.mark.parametrize("features", ["critic", "teacher"])
def test_adversarial_alone(tiny_model: SandwichTransformer, make_clip: Make, features: str) -> None:
    """Without matching and flow, student and discriminator learn; the critic only where its states are read."""
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    adversarial = Adversarial(features=features, student_weight=1.0, critic_weight=1.0, width=16)
    module = make_module(tiny_model, matching=None, critic_flow=None, adversarial=adversarial)
    heads = [parameter.clone() for parameter in module.discriminator.parameters()]
    fit(module, [make_clip("a"), make_clip("b", num_given_frames=1, seed=1)])
    key = "block.layers.1.mlp.down_proj.weight"
    assert not torch.equal(module.student.state_dict()[key], before[key])
    assert torch.equal(module.teacher.state_dict()[key], before[key])
    assert torch.equal(module.critic.state_dict()[key], before[key]) == (features == "teacher")
    moved = [not torch.equal(now, then) for now, then in zip(module.discriminator.parameters(), heads, strict=True)]
    assert all(moved)


def test_regression_alone_trains_the_student_alone(tiny_model: SandwichTransformer, make_clip: Make) -> None:
    """From other weights than the teacher's, towards the ends of its walks."""
    module = make_module(
        tiny_model, matching=None, critic_flow=None, regression=OdeRegression(steps_between=1), num_student_steps=12,
        student=SandwichTransformer(config=tiny_model.config, compute_dtype="float32"), critic_steps_per_student_step=1,
        student_optimizer=AdamWRecipe(learning_rate=3e-3),
    )  # fmt: skip
    losses: list[float] = []

    class Losses(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
            losses.append(float(trainer.callback_metrics["student/regression_video"]))

    trainer = fit(module, [make_clip("a"), make_clip("b", seed=1)], Losses())
    assert (module.student_steps, trainer.global_step) == (12, 12)
    for name, tensor in module.teacher.state_dict().items():
        assert torch.equal(module.critic.state_dict()[name], tensor)
    assert sum(losses[-4:]) < 0.7 * sum(losses[:4])


def test_adapters_train_resume_and_export(tiny_model: SandwichTransformer, make_clip: Make, tmp_path: Path) -> None:
    """The checkpoint holds no weights of the teacher, and a resumed run ends where one without a break does."""
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    clips = [make_clip("a"), make_clip("b", seed=1)]
    settings = {"adapters": LowRank(rank=2), "num_student_steps": 3, "adversarial": Adversarial(width=16)}

    def module() -> DMD2Module:
        teacher = SandwichTransformer(config=tiny_model.config, compute_dtype="float32")
        teacher.load_state_dict(before)
        return make_module(teacher, **settings)

    whole, save = module(), TurnCheckpoint(dirpath=str(tmp_path), every_critic_steps=1)
    fit(whole, clips)
    fit(module(), clips, StopAt(3), save)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    assert {name.split(".")[0] for name in saved} == {"networks", "ema", "discriminator"}
    assert not any("base" in name for name in saved)
    resumed = module()
    fit(resumed, clips, checkpoint=str(tmp_path / "last.ckpt"))
    ours, theirs = resumed.exported_model.state_dict(), whole.exported_model.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    key = "block.layers.1.mlp.down_proj.weight"
    assert not torch.equal(ours[key], before[key])
    teacher = whole.networks.teacher_model().state_dict()
    assert all(torch.equal(teacher[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"matching": DistributionMatching()},
        {"adversarial": Adversarial(width=16, layers=[5], r1_weight=0.1)},
        {"matching": None, "critic_flow": None, "adversarial": Adversarial(width=16, layers=[5], features="teacher")},
        {"matching": None, "critic_flow": None, "regression": OdeRegression(steps_between=2)},
    ],
    ids=["guided", "unguided", "adversarial", "adversarial_alone", "regression"],
)
def test_operations_are_those_that_are_counted(
    tiny_config: ModelConfig, make_clip: Make, changes: dict[str, object]
) -> None:
    """Of a critic's and a student's turn, in forward passes, by the products that PyTorch sees itself carry out (those
    of attention on CPUs it does not see). The discriminator reads the last layer.
    """
    config = replace(tiny_config, num_layers=6, hidden_size=64, mm_layers=(0, 5))
    module = make_module(SandwichTransformer(config=config, compute_dtype="float32"), **changes)
    counted: list[tuple[float, float]] = []

    class Count(Callback):
        def on_train_batch_start(self, *_: object) -> None:
            self.mode = FlopCounterMode(display=False)
            self.mode.__enter__()

        def on_train_batch_end(
            self, trainer: Trainer, pl_module: DMD2Module, outputs: object, batch: PackedBatch, batch_idx: int
        ) -> None:
            self.mode.__exit__(None, None, None)
            with FlopCounterMode(display=False) as one_pass, torch.no_grad():
                pl_module.teacher(batch)
            passes = pl_module.step_flops(batch) / forward_flops(config, batch.layouts)
            counted.append((passes, self.mode.get_total_flops() / one_pass.get_total_flops()))

    fit(module, [make_clip(str(i), video=(3, 8, 8), audio=9, seed=i) for i in range(2)], Count())
    assert len(counted) == 6
    for formula, carried_out in counted:
        assert formula == pytest.approx(carried_out, rel=0.1)


def test_alignment_follows_each_student_step(tiny_model: SandwichTransformer, make_clip: Make) -> None:
    """With a share of 0 the critic is the student after each of its steps; nothing happens in between."""
    module = make_module(tiny_model, alignment=ImplicitAlignment(retained=0.0), critic_steps_per_student_step=2)
    equal: list[bool] = []

    class Compare(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: DMD2Module, *_: object) -> None:
            pairs = zip(pl_module.critic.parameters(), pl_module.student.parameters(), strict=True)
            equal.append(all(torch.equal(critic, student) for critic, student in pairs))

    fit(module, [make_clip("a")], Compare())
    assert equal == [False, True] * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"matching": None}, "the student has no objective"),
        ({"critic_flow": None}, "matching needs a critic that follows"),
        ({"critic_flow": None, "adversarial": Adversarial()}, "matching needs a critic that follows"),
        ({"matching": None, "regression": OdeRegression()}, "a critic that nothing looks at"),
        ({"matching": None, "adversarial": Adversarial(features="teacher")}, "a critic that nothing looks at"),
        ({"adapters": LowRank(), "alignment": ImplicitAlignment()}, "alignment mixes the weights"),
        ({"ema_start": 4}, "an EMA that starts within the run"),
        ({"num_student_steps": 0}, "at least 1 step"),
        ({"batches_per_turn": 0}, "at least 1 batch"),
    ],
)
def test_settings_that_do_not_go_together(
    tiny_model: SandwichTransformer, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_module(tiny_model, **changes)


def test_no_critic_steps(tiny_model: SandwichTransformer) -> None:
    with pytest.raises(ValueError, match="at least 1 critic step"):
        make_module(tiny_model, critic_steps_per_student_step=0)


@pytest.mark.parametrize("network", ["student", "averaged", "critic"])
def test_two_ranks_train_as_one_process_with_both_clips(one_process: Path, two_ranks: Path, network: str) -> None:
    """Up to a tenth of a step of 1e-3: where a gradient is nearly zero, Adam makes rounding errors larger."""
    alone, together = (load_file(folder / network / "model.safetensors") for folder in (one_process, two_ranks))
    assert together.keys() == alone.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, atol=1e-4, rtol=0, msg=name)
        assert (together[name] - tensor).abs().mean() < 1e-6, name
