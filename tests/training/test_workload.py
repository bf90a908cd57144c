"""Bytes of states and operations of steps, against the known arithmetic of the released model."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from hh_train.model.config import ModelConfig
from hh_train.model.size import ClipShape, forward_flops, parameter_counts
from hh_train.model.transformer import SandwichTransformer
from hh_train.training.workload import Accelerator, Workload
from hh_train.types import ClipLayout

RELEASED = ModelConfig(
    num_layers=40, hidden_size=5120, head_dim=128, num_query_groups=8, video_in_channels=192, audio_in_channels=64,
    text_in_channels=3584, mm_layers=(0, 1, 2, 3, 36, 37, 38, 39), gelu7_layers=(0, 1, 2, 3),
)  # fmt: skip
PRETRAIN = Workload(model=partial(SandwichTransformer, config=RELEASED), ema=False)
DISTILL = replace(PRETRAIN, kind="distill", frozen_dtype="bfloat16")
GB = 1e9


def test_pretraining_state_of_the_released_model() -> None:
    """16 bytes a parameter: 245 GB, 30.6 GB on each of 8 GPUs, 15.3 GB on each of 16."""
    state = PRETRAIN.state_bytes()
    assert state.total == 16 * 15_299_419_136
    assert (state.weights, state.gradients, state.optimizer) == (state.total / 4, state.total / 4, state.total / 2)
    assert (state.ema, state.frozen) == (0, 0)
    assert state.total / GB == pytest.approx(245, rel=0.002)
    assert state.shared_by(8).total / GB == pytest.approx(30.6, rel=0.002)
    assert state.shared_by(16).total / GB == pytest.approx(15.3, rel=0.002)
    assert replace(PRETRAIN, ema=True).state_bytes().ema / GB == pytest.approx(61.2, rel=0.002)


def test_distillation_state_of_the_released_model() -> None:
    """Student and critic, and a teacher in bf16: 520 GB, 65 GB on each of 8 GPUs, 32.5 GB on each of 16."""
    state = DISTILL.state_bytes()
    assert state.total / GB == pytest.approx(520, rel=0.002)
    assert state.shared_by(8).total / GB == pytest.approx(65, rel=0.002)
    assert state.shared_by(16).total / GB == pytest.approx(32.5, rel=0.002)
    assert state.frozen / GB == pytest.approx(30.64, rel=0.001)  # the released base model on disk
    average = replace(DISTILL, ema=True).state_bytes().total - state.total
    assert average == 4 * 15_299_419_136
    assert replace(DISTILL, frozen_dtype="float32").state_bytes().frozen / GB == pytest.approx(61.2, rel=0.001)


def test_inference_holds_the_weights_alone() -> None:
    state = replace(PRETRAIN, kind="inference", frozen_dtype="bfloat16").state_bytes()
    assert state.total == state.frozen
    assert state.frozen / GB == pytest.approx(30.64, rel=0.001)


def test_operations_of_each_kind_of_step() -> None:
    clips = (ClipLayout((2, 3, 4), 5, 6),) * 2
    forward = forward_flops(RELEASED, clips)
    assert PRETRAIN.step_flops(clips) == 3 * forward
    assert replace(PRETRAIN, kind="inference", num_steps=32).step_flops(clips) == 32 * 2 * forward
    assert replace(PRETRAIN, kind="inference", guided=False).step_flops(clips) == 8 * forward
    # Exits after 1 to 8 evaluations, the critic's passes; in every fifth step the student's backward pass, the teacher
    # with and without the prompt, the critic's judgement.
    assert DISTILL.step_flops(clips) == pytest.approx((4.5 + 3 + (2 + 2 + 1) / 5) * forward)


def test_full_checkpointing_adds_a_third() -> None:
    clips = (ClipShape(size=(256, 448), seconds=4.0).layout(RELEASED.patch),)
    assert PRETRAIN.recomputed_flops(clips, "full") == PRETRAIN.step_flops(clips) / 3
    assert PRETRAIN.recomputed_flops(clips, "selective") == PRETRAIN.recomputed_flops(clips, "none") == 0
    assert DISTILL.recomputed_flops(clips, "full") == pytest.approx(1.2 * forward_flops(RELEASED, clips))


def test_what_the_bound_model_says() -> None:
    assert PRETRAIN.config == RELEASED
    assert PRETRAIN.activation_checkpointing == "none"
    full = replace(PRETRAIN, model=partial(SandwichTransformer, config=RELEASED, activation_checkpointing="full"))
    assert full.activation_checkpointing == "full"
    assert max(full.layer_bytes()) == 4 * 818_535_168
    assert parameter_counts(full.config).total == 15_299_419_136


def test_this_cpu_is_measured() -> None:
    cpu = Accelerator.this_cpu()
    assert cpu.is_cpu and cpu.name.startswith("this CPU")
    assert 0.5 < cpu.memory_gib < 1e5
    assert 1e-3 < cpu.teraflops < 1e3
