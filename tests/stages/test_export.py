"""What leaves for elsewhere: a bundle that is verified, a checkpoint with adapters in it, an adapter in other keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from hh_train.inference.bundle import Bundle, read_fields
from hh_train.model.checkpoint import load_model
from hh_train.model.lora import load_with_adapters
from hh_train.runtime.composition import compose_config
from hh_train.runtime.config import config_faults
from hh_train.training.checkpoints import Provenance

Export = Callable[..., Path]
SMALL = ("solver.num_steps=1", "num_frames=5", "size=[16,16]")


@pytest.fixture(scope="module")
def export(run_stage: Callable[..., Any], student: Path) -> Export:
    def run(*overrides: str) -> Path:
        return run_stage("export", *overrides)

    return run


def test_a_bundle_with_an_adapter_in_its_weights(export: Export, student_look: Path, student: Path, road: Path) -> None:
    """Verified by the stage in a fresh process; scores of clips without the adapter are not its own."""
    bundle = export(*SMALL, f"output={road}/adapted", f"adapters=[{{path:{student_look},weight:0.8}}]")
    fields = read_fields(bundle)
    assert fields["adapters"] == [{"path": str(student_look), "weight": 0.8}] and fields["scores"] is None
    assert "look.safetensors (weight 0.8)" in (bundle / "README.md").read_text()
    shipped = Bundle.load(bundle).generator.model.state_dict()
    wanted = load_with_adapters(student, [{"path": student_look, "weight": 0.8}]).state_dict()
    plain = load_model(student).state_dict()
    assert all(torch.equal(shipped[name], tensor) for name, tensor in wanted.items())
    assert sum(not torch.equal(shipped[name], tensor) for name, tensor in plain.items()) == 8
    with pytest.raises(ValueError, match="holds a bundle, which format=checkpoint would damage"):
        export("format=checkpoint", f"output={bundle}")


def test_a_checkpoint_with_adapters_in_it(export: Export, student_look: Path, student: Path, road: Path) -> None:
    """It is a checkpoint like any other, also to the stages that ask what it was trained on."""
    adapters = f"adapters=[{{path:{student_look}}}]"
    folder = export("format=checkpoint", f"output={road}/merged", adapters, "bfloat16_products=true")
    assert folder == road / "merged" / "model"
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        dtypes = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118 - no mapping
    assert {name.split(".")[-2] for name, dtype in dtypes.items() if dtype == torch.bfloat16} == {
        "linear_qkv", "linear_proj", "up_gate_proj", "down_proj"
    }  # fmt: skip
    assert len(dtypes) == len(load_model(student).state_dict())
    assert Provenance.read(folder) == Provenance.read(student)
    assert json.loads((folder / "adapters.json").read_text()) == [{"path": str(student_look)}]
    wanted = load_with_adapters(student, [{"path": student_look}]).state_dict()
    for name, tensor in load_model(folder).state_dict().items():
        torch.testing.assert_close(tensor, wanted[name], rtol=2**-8, atol=0, msg=name)
    assert export("format=checkpoint", f"output={road}/merged", adapters) == folder
    with pytest.raises(ValueError, match="is there already, and no export"):
        export("format=checkpoint", f"output={student.parent}", adapters)


@pytest.mark.parametrize("style", ["kohya", "peft"])
def test_an_adapter_in_other_keys(style: str, export: Export, student_look: Path, student: Path, road: Path) -> None:
    path = export(f"format={style}", f"output={road}/styles", f"adapters=[{{path:{student_look}}}]")
    assert path == road / "styles" / ("peft" if style == "peft" else "kohya.safetensors")
    ours, wanted = (load_with_adapters(student, [{"path": one}]).state_dict() for one in (path, student_look))
    for name, tensor in wanted.items():
        torch.testing.assert_close(ours[name], tensor, atol=1e-6, rtol=1e-6, msg=name)
    with pytest.raises(ValueError, match=f"got 0 adapters for format={style}, wanted the one to write"):
        export(f"format={style}", f"output={road}/styles")


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("format=pef", "wanted one of 'bundle', 'checkpoint', 'comfyui', 'kohya', 'peft'"),
        ("adapters=[a.safetensors]", "wanted {path: Path, weight?: float, any_base?: bool}"),
        ("adapters=[{weight:1}]", "adapters.0.path: is missing"),
        ("adapters=[{path:a,scale:1}]", "adapters.0.scale: is unknown"),
    ],
)
@pytest.mark.parametrize("stage", ["export", "generate"])
def test_slips_are_told_before_anything_is_read(stage: str, override: str, fault: str) -> None:
    if stage == "generate" and override.startswith("format"):
        return
    (found,) = config_faults(compose_config(stage, [override]))
    assert fault in str(found)
