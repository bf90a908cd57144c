"""Whether a plan fits, how long it takes, and that each change it proposes would make it fit."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from hh_train.model.config import ModelConfig
from hh_train.model.lora.targets import AdapterRecipe
from hh_train.model.quantized.formats import Float8Format
from hh_train.model.transformer import SandwichTransformer
from hh_train.runtime.composition import compose_config
from hh_train.runtime.config import instantiate
from hh_train.training.plan import FORMATS, Plan
from hh_train.training.workload import Accelerator, Workload
from hh_train.types import ClipLayout

SMALL = ModelConfig(
    num_layers=6, hidden_size=256, head_dim=64, num_query_groups=2, video_in_channels=192, audio_in_channels=64,
    text_in_channels=96, mm_layers=(0, 5), gelu7_layers=(0,),
)  # fmt: skip


@pytest.fixture
def plan() -> Plan:
    """Four clips of 1160 tokens on each of two devices of 1 GiB and a tenth of a teraflop a second."""
    return Plan(
        workload=Workload(model=partial(SandwichTransformer, config=SMALL)),
        gpu=Accelerator(name="small", memory_gib=1.0, teraflops=0.1),
        num_gpus=2,
        strategy="ddp",
        layout=ClipLayout((10, 10, 10), 100, 60),
        clips_per_gpu=4,
        mfu=0.5,
        usable_share=1.0,
        kind="none",
    )


def with_memory(plan: Plan, gib: float) -> Plan:
    return replace(plan, gpu=replace(plan.gpu, memory_gib=gib))


def with_changes(plan: Plan, overrides: str) -> Plan:
    names = {"module.model.activation_checkpointing": "kind"}
    changed = dict(override.split("=") for override in overrides.split())
    workload = plan.workload.changed(
        frozen=FORMATS[changed.pop("quantization")] if "quantization" in changed else plan.workload.frozen,
        offload=changed.pop("module.offload", str(plan.workload.offload)) == "True",
        moments=changed.pop("module.moments", plan.workload.moments),
    )
    values = {names.get(name, name): int(value) if value.isdigit() else value for name, value in changed.items()}
    return replace(plan, workload=workload, **values)


def test_it_fits_up_to_its_peak(plan: Plan) -> None:
    peak_gib = plan.device_bytes.peak / 2**30
    assert with_memory(plan, peak_gib * 1.001).fits
    assert not with_memory(plan, peak_gib * 0.999).fits
    assert not replace(with_memory(plan, peak_gib * 1.001), usable_share=0.99).fits


def test_seconds_of_a_step(plan: Plan) -> None:
    """Operations over the rate that is reached; full checkpointing takes a third more."""
    assert plan.step_seconds == pytest.approx(plan.workload.step_flops(plan.clips) / (0.1e12 * 0.5))
    assert replace(plan, kind="selective").step_seconds == plan.step_seconds
    assert replace(plan, kind="full").step_seconds == pytest.approx(4 / 3 * plan.step_seconds)
    assert replace(plan, clips_per_gpu=2).step_seconds == pytest.approx(plan.step_seconds / 2)


def test_one_change_is_proposed_where_one_is_enough(plan: Plan) -> None:
    selective = replace(plan, kind="selective").device_bytes.peak
    tight = with_memory(plan, selective * 1.01 / 2**30)
    assert not tight.fits
    proposed = list(tight.changes())
    assert "module.model.activation_checkpointing=selective" in proposed  # and not full, which is slower
    assert all(len(change.split()) == 1 for change in proposed)
    for change in proposed:
        assert with_changes(tight, change).fits, change


def test_several_changes_are_proposed_where_no_single_one_is_enough(plan: Plan) -> None:
    eight_bit = replace(plan.workload, moments="8bit")
    cheapest = replace(plan, workload=eight_bit, kind="full", clips_per_gpu=1, strategy="fsdp", num_gpus=2)
    tight = with_memory(plan, cheapest.device_bytes.peak * 1.02 / 2**30)
    proposed = list(tight.changes())
    assert proposed
    for change in proposed:
        assert len(change.split()) > 1
        assert with_changes(tight, change).fits, change


def test_smaller_frozen_weights_are_proposed_for_adapters(plan: Plan) -> None:
    wide = replace(SMALL, hidden_size=768, head_dim=128, num_query_groups=3)
    workload = Workload(model=partial(SandwichTransformer, config=wide), kind="finetune", adapters=AdapterRecipe())
    plan = replace(
        plan, workload=workload, num_gpus=1, kind="full", clips_per_gpu=1, layout=ClipLayout((1, 2, 2), 5, 6)
    )
    in_8_bits = replace(plan, workload=replace(workload, frozen=Float8Format())).device_bytes.peak
    tight = with_memory(plan, in_8_bits * 1.01 / 2**30)
    proposed = list(tight.changes())
    assert {"quantization=float8", "module.offload=True"} <= set(proposed)
    assert "quantization=bfloat16" not in proposed  # twice as large
    for change in proposed:
        assert with_changes(tight, change).fits, change


def test_formats_are_those_of_the_configuration() -> None:
    """And stand in the order of their sizes."""
    found = {}
    for name in FORMATS:
        config = compose_config("plan", [f"quantization={name}"])
        found[name] = instantiate(config.module.frozen)
    assert found == FORMATS
    sizes = [one.num_bytes(100, 1000) for one in FORMATS.values()]
    assert sizes == sorted(sizes, reverse=True)


def test_nothing_is_proposed_where_nothing_helps(plan: Plan) -> None:
    assert list(with_memory(plan, 1e-3).changes()) == []
