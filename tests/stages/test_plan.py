"""The plan of the released model against its known arithmetic, and what a user reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hh_train.runtime.composition import compose_config
from hh_train.runtime.config import config_faults, instantiate
from hh_train.training.memory import MemoryModel

GB = 1e9


def plan(*overrides: str) -> dict[str, Any]:
    config = compose_config("plan", list(overrides))
    assert not config_faults(config)
    record: dict[str, Any] = instantiate(config)
    return record


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """5 s at 256 x 448 on 16 H100, sharded, without EMA."""
    return plan("num_gpus=16", "module.ema=false", f"output={tmp_path_factory.mktemp('plan')}")


def test_parameters_and_tokens_of_the_released_model(released: dict[str, Any]) -> None:
    parameters = released["parameters"]
    assert parameters["total"] == 15_299_419_136
    assert parameters["active_in_layers"] == 10_913_064_960
    assert released["clip"]["video_grid"] == [32, 8, 14]
    assert (released["clip"]["video_tokens"], released["clip"]["text_tokens"]) == (3584, 300)
    assert released["clip"]["training_flops"] == pytest.approx(302e12, rel=0.02)


def test_memory_and_time_of_the_released_model(released: dict[str, Any]) -> None:
    """16 bytes a parameter over 16 devices; time is operations over what an H100 reaches at 40 %."""
    for kind, device in released["bytes_per_device"].items():
        state = sum(device[name] for name in ("weights", "gradients", "optimizer", "ema", "frozen"))
        assert state / GB == pytest.approx(15.3, rel=0.002)
        assert state < device["peak"]
        assert released["fits"][kind] == (device["peak"] <= 0.92 * 80 * 2**30)
    kept = [released["bytes_per_device"][kind]["activations"] for kind in ("none", "selective", "full")]
    assert kept[0] > kept[1] > kept[2] > 0
    seconds = released["step_seconds"]
    assert seconds["none"] == pytest.approx(released["clip"]["training_flops"] / (989e12 * 0.4))
    assert seconds["full"] == pytest.approx(4 / 3 * seconds["none"])


def test_the_record_is_written(tmp_path: Path) -> None:
    record = plan("model=cpu", "gpu=rtx4090", "num_gpus=1", f"output={tmp_path}", "clip.size=[64,64]", "clip.seconds=2")
    assert json.loads((tmp_path / "plan.json").read_text()) == json.loads(json.dumps(record))
    assert record["fits"][record["activation_checkpointing"]]


def test_what_does_not_fit_says_what_would(capsys: pytest.CaptureFixture[str]) -> None:
    record = plan("model=sandwich_1b3", "gpu=rtx4090", "num_gpus=2", "strategy=ddp")
    assert not any(record["fits"].values())
    printed = capsys.readouterr().out
    assert "It does not fit" in printed
    assert record["changes"] and all(change in printed for change in record["changes"])
    assert "strategy=fsdp" in " ".join(record["changes"])


@pytest.mark.parametrize("kind", ["distill", "inference"])
def test_other_uses_of_the_model(kind: str) -> None:
    """Distillation holds student, critic and a frozen teacher, inference frozen weights alone."""
    record = plan("model=sandwich_50m", "num_gpus=8", f"module.kind={kind}")
    device, total = next(iter(record["bytes_per_device"].values())), record["parameters"]["total"]
    trained = 2 if kind == "distill" else 0
    assert device["optimizer"] == pytest.approx(trained * 8 * total / 8)
    assert device["frozen"] == pytest.approx(4 * total / 8)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["num_gpus=0"], "num_gpus 0"),
        (["mfu=1.5"], "mfu 1.5"),
        (["clip.size=[272,448]"], "272 x 448"),
    ],
)
def test_bad_numbers_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan(*overrides)


@pytest.mark.parametrize(
    ("overrides", "memory_gib", "frozen_gb"),
    [
        ((), 80, 30.64),
        (("quantization=nf4",), 24, 30.56 * 4.131 / 16 + 0.086),
        (("module.offload=true",), 24, 0.086),
    ],
    ids=["bf16", "nf4", "offloaded"],
)
def test_a_lora_of_the_released_model_fits_on_one_gpu(
    overrides: tuple[str, ...], memory_gib: int, frozen_gb: float
) -> None:
    """Frozen weights in bf16, in 4 bits, or in the CPU's memory; layers recomputed."""
    config = compose_config("plan", ["experiment=plan/lora_15b", *overrides])
    assert not config_faults(config)
    workload, clip = instantiate(config.module), instantiate(config.clip)
    device = MemoryModel(workload=workload).device_bytes(
        [clip.layout(workload.config.patch)], strategy=config.strategy, num_devices=config.num_gpus, kind="full"
    )
    assert 0.3 * memory_gib * 2**30 < device.peak < config.usable_share * memory_gib * 2**30
    assert device.state.frozen / GB == pytest.approx(frozen_gb, rel=0.005)
    assert workload.trained_parameters > 100e6


def test_a_lora_that_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    """On a small model: what would make it fit, and what lies in the CPU's memory."""
    small = ("experiment=plan/lora_15b", "model=cpu", "gpu=rtx4090", "clip.size=[64,64]", "clip.seconds=2")
    fitting = plan(*small, "module.offload=true")
    assert fitting["frozen"] == {"format": "bfloat16", "offloaded_bytes": fitting["frozen"]["offloaded_bytes"]}
    assert fitting["frozen"]["offloaded_bytes"] > 1e6
    assert "GiB of frozen weights" in capsys.readouterr().out
    peaks = [plan(*small, f"quantization={name}")["bytes_per_device"]["full"]["peak"] for name in ("bfloat16", "nf4")]
    between = (peaks[0] + peaks[1]) / 2 / 2**30
    tight = plan(*small, f"gpu.memory_gib={between}", "usable_share=1.0", "+module.model.activation_checkpointing=full")
    assert not tight["fits"]["full"]
    assert any(change.startswith("quantization=") for change in tight["changes"])
    assert "module.offload=True" in tight["changes"]
