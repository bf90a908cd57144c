"""Bytes of states and operations of steps, against the known arithmetic of the released model."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from hh_train.model.config import ModelConfig
from hh_train.model.lora.targets import AdapterRecipe, AdapterRule, num_parameters
from hh_train.model.quantized.formats import Float8Format, NF4Format, PlainFormat
from hh_train.model.size import ClipShape, forward_flops, parameter_counts
from hh_train.model.transformer import SandwichTransformer
from hh_train.training.dmd2.adapters import adapter_parameters
from hh_train.training.finetune.rates import LayerwiseRates
from hh_train.training.workload import Accelerator, Workload
from hh_train.types import ClipLayout

RELEASED = ModelConfig(
    num_layers=40, hidden_size=5120, head_dim=128, num_query_groups=8, video_in_channels=192, audio_in_channels=64,
    text_in_channels=3584, mm_layers=(0, 1, 2, 3, 36, 37, 38, 39), gelu7_layers=(0, 1, 2, 3),
)  # fmt: skip
PRETRAIN = Workload(model=partial(SandwichTransformer, config=RELEASED), ema=False)
DISTILL = replace(PRETRAIN, kind="distill", frozen=PlainFormat())
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
    assert replace(DISTILL, frozen=PlainFormat(dtype="float32")).state_bytes().frozen / GB == pytest.approx(
        61.2, rel=0.001
    )


def test_adapters_on_one_released_model() -> None:
    """30.6 GB of a teacher in bf16, and 16 bytes for each parameter of two sets of adapters."""
    state = replace(DISTILL, adapter_rank=64).state_bytes()
    assert state.frozen == DISTILL.state_bytes().frozen
    trained = adapter_parameters(RELEASED, 64)
    assert state.total - state.frozen == 2 * 16 * trained
    assert state.total / GB < 60  # against 520 of full copies
    with pytest.raises(ValueError, match="adapter_rank 64 for pretrain"):
        replace(PRETRAIN, adapter_rank=64)


def test_a_low_rank_adapter_of_the_released_model() -> None:
    """Beside the frozen weights (30.64 GB in bf16, 4.13 bits each in nf4) 16 bytes for each of its parameters."""
    recipe = AdapterRecipe(rules=(AdapterRule(rank=32),))
    in_bf16 = replace(PRETRAIN, kind="finetune", frozen=PlainFormat(), adapters=recipe)
    in_nf4 = replace(in_bf16, frozen=NF4Format())
    trained = num_parameters(RELEASED, recipe)
    assert in_bf16.trained_parameters == trained
    assert in_bf16.state_bytes().total - in_bf16.state_bytes().frozen == 16 * trained
    assert in_bf16.state_bytes().frozen / GB == pytest.approx(30.64, rel=0.001)
    products = 15_277_834_240  # those that the released model has in bf16
    assert in_nf4.state_bytes().frozen == pytest.approx(products * 4.131 / 8 + 4 * 21_584_896, rel=0.003)
    average = replace(in_nf4, ema=True).state_bytes()
    assert average.ema == 4 * trained
    decomposed = replace(in_nf4, adapters=replace(recipe, decomposed=True))
    assert decomposed.trained_parameters == num_parameters(RELEASED, replace(recipe, decomposed=True)) > trained


def test_offloaded_weights_are_not_on_the_device() -> None:
    adapted = replace(PRETRAIN, kind="finetune", frozen=PlainFormat(), adapters=AdapterRecipe())
    offloaded = replace(adapted, offload=True)
    assert offloaded.offloaded_bytes == 2 * 15_277_834_240
    assert adapted.state_bytes().frozen - offloaded.state_bytes().frozen == offloaded.offloaded_bytes
    assert (adapted.offloaded_bytes, adapted.fetched_bytes) == (0, 0)
    assert offloaded.fetched_bytes == 2 * 81912 * 5120  # the largest matrix


def test_8_bit_moments() -> None:
    """2 bytes a parameter and two scales for each 256, instead of 8 bytes."""
    state = replace(PRETRAIN, moments="8bit").state_bytes()
    assert state.optimizer / 15_299_419_136 == pytest.approx(2 + 8 / 256, rel=0.001)
    assert state.weights == PRETRAIN.state_bytes().weights


def test_frozen_parts_have_no_gradients() -> None:
    rates = LayerwiseRates(shares={"block.layers.*": 0, "block.layers.39.*": 1})
    partly = replace(PRETRAIN, kind="finetune", rates=rates)
    state, trained = partly.state_bytes(), 818_473_728 + 19_676_160 + 1_320_960
    assert partly.trained_parameters == trained
    assert state.frozen == 4 * (15_299_419_136 - trained)
    assert state.optimizer == 2 * state.gradients == 8 * trained
    assert replace(partly, rates=None).state_bytes() == PRETRAIN.state_bytes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"adapters": AdapterRecipe()}, "of finetune"),
        ({"kind": "finetune", "adapters": AdapterRecipe(), "rates": LayerwiseRates()}, "adapters and rates"),
        ({"kind": "finetune", "offload": True}, "keeps no frozen network"),
        ({"kind": "distill", "adapter_rank": 4, "frozen": Float8Format()}, "float32 or bfloat16"),
    ],
)
def test_settings_that_make_no_run(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PRETRAIN, **settings)


def test_inference_holds_the_weights_alone() -> None:
    state = replace(PRETRAIN, kind="inference", frozen=PlainFormat()).state_bytes()
    assert state.total == state.frozen
    assert state.frozen / GB == pytest.approx(30.64, rel=0.001)


def test_operations_of_each_kind_of_step() -> None:
    clips = (ClipLayout((2, 3, 4), 5, 6),) * 2
    forward = forward_flops(RELEASED, clips)
    assert PRETRAIN.step_flops(clips) == 3 * forward
    assert replace(PRETRAIN, kind="inference", num_steps=32).step_flops(clips) == 32 * 2 * forward
    assert replace(PRETRAIN, kind="inference", guided=False).step_flops(clips) == 8 * forward
    assert replace(PRETRAIN, kind="finetune").step_flops(clips) == 3 * forward
    adapted = replace(PRETRAIN, kind="finetune", adapters=AdapterRecipe())
    assert adapted.step_flops(clips) == 2 * forward  # no gradients of the frozen weights
    assert adapted.recomputed_flops(clips, "full") == forward
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
    assert max(full.layer_bytes()) == max(full.layer_gradient_bytes()) == 4 * 818_535_168
    adapted = replace(full, kind="finetune", frozen=Float8Format(), adapters=AdapterRecipe())
    assert max(adapted.layer_bytes()) < 1.1 * 818_535_168
    assert max(adapted.layer_gradient_bytes()) < 0.05 * 4 * 818_535_168
    assert parameter_counts(full.config).total == 15_299_419_136


def test_this_cpu_is_measured() -> None:
    cpu = Accelerator.this_cpu()
    assert cpu.is_cpu and cpu.name.startswith("this CPU")
    assert 0.5 < cpu.memory_gib < 1e5
    assert 1e-3 < cpu.teraflops < 1e3
