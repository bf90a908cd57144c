"""Frozen linear layers compute what a layer with the decoded weights computes, and keep nothing for it."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from hh_train.model.modality import ModalityLinear
from hh_train.model.quantized.formats import Float8Format, Int8Format, NF4Format, PlainFormat, WeightFormat
from hh_train.model.quantized.linear import ROWS_AT_ONCE, FrozenLinear, encoded_by_rows

FORMATS = [PlainFormat(), Float8Format(), Int8Format(), NF4Format()]
COUNTS = (4, 0, 3)


def make_linear(*, per_modality: bool = True, dtype: torch.dtype = torch.float32) -> ModalityLinear:
    torch.manual_seed(0)
    linear = ModalityLinear(in_features=70, out_features=24, per_modality=per_modality, compute_dtype=dtype)
    torch.nn.init.normal_(linear.weight)
    return linear


@pytest.mark.parametrize("per_modality", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weight_format", FORMATS, ids=lambda one: one.name)
def test_output_and_gradient(weight_format: WeightFormat, dtype: torch.dtype, per_modality: bool) -> None:
    linear = make_linear(per_modality=per_modality, dtype=dtype)
    frozen = FrozenLinear.of(linear, weight_format)
    linear.weight.data = weight_format.decode(frozen.parts, columns=70, dtype=dtype).float()
    x, gradient = torch.randn(7, 70), torch.randn(7, 24).to(dtype)
    results = []
    for layer in (frozen, linear):
        own = x.clone().requires_grad_()
        output = layer(own, COUNTS)
        results.append((output.dtype, output, torch.autograd.grad(output, own, gradient)[0]))
    assert results[0][0] == results[1][0] == dtype
    torch.testing.assert_close(results[0][1:], results[1][1:])
    assert results[0][2].abs().min() > 0
    with torch.no_grad():
        assert torch.equal(frozen(x, COUNTS), results[0][1])


def test_shape_and_weights() -> None:
    linear = make_linear()
    frozen = FrozenLinear.of(linear, Int8Format())
    assert (frozen.in_features, frozen.out_features, frozen.num_experts) == (70, 24, 3)
    assert "int8" in repr(frozen)
    torch.testing.assert_close(frozen.weight, linear.weight.detach(), atol=0.02, rtol=0)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_nothing_is_kept_but_encoded_weights() -> None:
    frozen = FrozenLinear.of(make_linear(), NF4Format())
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        frozen(torch.randn(7, 70, requires_grad=True), COUNTS)
    own = {parameter.data_ptr() for parameter in frozen.parameters()}
    assert kept and all(tensor.data_ptr() in own for tensor in kept)


def test_many_rows_are_encoded_some_at_a_time() -> None:
    weight = torch.randn(2 * ROWS_AT_ONCE + 5, 64)
    sizes: list[int] = []

    def read(rows: slice) -> Tensor:
        sizes.append(rows.stop - rows.start)
        return weight[rows]

    parts = encoded_by_rows(NF4Format(), len(weight), read)
    assert sizes == [ROWS_AT_ONCE, ROWS_AT_ONCE, 5]
    assert all(torch.equal(parts[name], part) for name, part in NF4Format().encode(weight).items())


def test_a_copy_and_a_state_dict_hold_the_same() -> None:
    frozen = FrozenLinear.of(make_linear(), NF4Format())
    other = FrozenLinear.of(make_linear(), NF4Format())
    for parameter in other.parameters():
        parameter.data.zero_()
    other.load_state_dict(frozen.state_dict())
    x = torch.randn(7, 70)
    assert torch.equal(other(x, COUNTS), frozen(x, COUNTS))
    assert torch.equal(copy.deepcopy(frozen)(x, COUNTS), frozen(x, COUNTS))


def test_offloaded_weights_stay_where_they_are() -> None:
    """Whatever moves the model; the device of x decides where products are taken."""
    frozen = FrozenLinear.of(make_linear(), Float8Format())
    moved = copy.deepcopy(frozen).to("meta")
    assert all(part.is_meta for part in moved.parts.values())
    frozen.offload()
    frozen.to("meta").to(torch.float64)
    assert [part.device.type for part in frozen.parts.values()] == ["cpu", "cpu"]
    assert frozen.parts["scales"].dtype == torch.float32
    assert frozen(torch.empty(7, 70, device="meta"), COUNTS).is_meta
    x = torch.randn(7, 70, requires_grad=True)
    frozen(x, COUNTS).sum().backward()
    assert x.grad is not None and x.grad.abs().min() > 0


COMPILED = """
import json

import torch

from hh_train.model.modality import ModalityLinear
from hh_train.model.quantized.formats import Float8Format, Int8Format, NF4Format, PlainFormat
from hh_train.model.quantized.linear import FrozenLinear

torch.manual_seed(0)
found = {}
for weight_format in (PlainFormat(), Float8Format(), Int8Format(), NF4Format()):
    linear = ModalityLinear(in_features=64, out_features=96, per_modality=True, compute_dtype=torch.bfloat16)
    torch.nn.init.normal_(linear.weight)
    frozen = FrozenLinear.of(linear, weight_format)
    own = {parameter.data_ptr() for parameter in frozen.parameters()}
    function = lambda x, counts: frozen(torch.tanh(x), counts).float()
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager_decomp_partition")
    results, kept = [], []
    for run in (function, compiled):
        kept.clear()
        x = torch.linspace(-2, 2, 7 * 64).view(7, 64).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
            output = run(x, (3, 2, 2))
        output.square().sum().backward()
        results.append((output.detach(), x.grad))
    found[weight_format.name] = {
        "kept": max(t.numel() for t in kept if t.data_ptr() not in own),
        "difference": max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(*results)),
    }
print(json.dumps(found))
"""


def test_compiled_layers_keep_no_decoded_weights() -> None:
    """In a process of its own: the compiler cannot look through this suite's run-time shape checks."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert set(found) == {"bfloat16", "float8", "int8", "nf4"}
    for name, result in found.items():
        assert result["kept"] <= 512, name  # the tokens, or the levels; a decoded expert has 6144 numbers
        assert result["difference"] < 0.02, name
