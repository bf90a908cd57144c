"""Schedule and groups."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch

from hh_train.training.optim import AdamWRecipe, RatedParameters, moment_bytes


def rates(recipe: AdamWRecipe, num_steps: int) -> list[float]:
    optimizer, schedule = recipe.build([torch.nn.Parameter(torch.zeros(2, 2))], num_steps=num_steps)
    found = []
    for _ in range(num_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_warm_up_then_cosine() -> None:
    found = rates(AdamWRecipe(learning_rate=1.0, warmup_steps=4, final_share=0.1), 14)
    assert found[:4] == [0.25, 0.5, 0.75, 1.0]
    assert found[9] == pytest.approx(0.55)  # half-way down
    assert found == sorted(found[:4]) + sorted(found[4:], reverse=True)


def test_constant_without_decay() -> None:
    assert set(rates(AdamWRecipe(learning_rate=0.5), 5)) == {0.5}


def test_only_trainable_matrices_decay() -> None:
    matrix, vector, frozen = (
        torch.nn.Parameter(torch.ones(2, 2)),
        torch.nn.Parameter(torch.ones(2)),
        torch.nn.Parameter(torch.ones(2, 2)),
    )
    frozen.requires_grad_(False)
    optimizer, _ = AdamWRecipe(learning_rate=0.1, weight_decay=0.5).build([matrix, vector, frozen], num_steps=1)
    for parameter in (matrix, vector):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert matrix[0, 0].item() == pytest.approx(0.95) and vector[0].item() == 1 and frozen[0, 0].item() == 1


def test_parameters_of_several_rates() -> None:
    fast, slow = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    optimizer, schedule = AdamWRecipe(learning_rate=0.1, warmup_steps=2).build_rated(
        [RatedParameters(parameters=[fast]), RatedParameters(parameters=[slow], share=0.25)], num_steps=2
    )
    for parameter in (fast, slow):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    schedule.step()
    assert fast[0, 0].item() == pytest.approx(1 - 0.05) and slow[0].item() == pytest.approx(1 - 0.0125)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.1, 0.025, 0.025])


def test_bytes_of_moments() -> None:
    assert moment_bytes([4096, 100], "float32") == 8 * 4196
    assert moment_bytes([4096, 100, 5000], "8bit") == 2 * (4096 + 4 * 16) + 8 * 5100


EIGHT_BITS = """
import copy, io, json

import torch

from hh_train.training.optim import AdamWRecipe, moment_bytes

torch.manual_seed(0)
target = torch.randn(64, 128)


def train(moments, num_steps, resume_at=None):
    weight = torch.nn.Parameter(torch.zeros(64, 128))
    recipe = AdamWRecipe(learning_rate=0.06, betas=(0.9, 0.95), warmup_steps=5, final_share=0.1, moments=moments)
    optimizer, schedule = recipe.build([weight], num_steps=num_steps)
    for step in range(num_steps):
        if step == resume_at:
            file = io.BytesIO()
            torch.save((optimizer.state_dict(), schedule.state_dict()), file)
            file.seek(0)
            optimizer, schedule = recipe.build([weight], num_steps=num_steps)
            for one, state in zip((optimizer, schedule), torch.load(file, weights_only=False)):
                one.load_state_dict(state)
        optimizer.zero_grad()
        (weight - target).square().sum().backward()
        optimizer.step()
        schedule.step()
    state = optimizer.state[weight]
    moments = [state["exp_avg"], state["exp_avg_sq"]]
    stored = sum(m.nbytes if type(m) is torch.Tensor else m.codes.nbytes + m.scale.nbytes for m in moments)
    return weight.detach(), stored


exact, exact_bytes = train("float32", 200)
short, short_bytes = train("8bit", 200)
resumed, _ = train("8bit", 200, resume_at=20)
print(json.dumps({
    "left": float((short - target).norm() / target.norm()),
    "difference": float((short - exact).norm() / exact.norm()),
    "resumed": bool(torch.equal(resumed, short)),
    "bytes": [short_bytes, exact_bytes],
    "predicted": [moment_bytes([8192], "8bit"), moment_bytes([8192], "float32")],
}))
"""


def test_8_bit_moments_learn_the_same_in_a_quarter_of_the_memory() -> None:
    """In a process of its own, since the step is compiled. A resumed run goes on just as it would have."""
    pytest.importorskip("torchao")
    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("there is no C++ compiler to compile the step with")
    done = subprocess.run([sys.executable, "-c", EIGHT_BITS], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["left"] < 0.05
    assert 0 < found["difference"] < 0.05
    assert found["resumed"]
    assert found["bytes"] == found["predicted"]


def test_8_bit_moments_need_torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.optim", None)
    with pytest.raises(ValueError, match="pip install torchao"):
        AdamWRecipe(learning_rate=0.1, moments="8bit").build([torch.nn.Parameter(torch.ones(2))], num_steps=1)
