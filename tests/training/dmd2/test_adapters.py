"""Three networks in one."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Literal

import pytest
import torch

from hh_train.data.packing import pack
from hh_train.model.config import ModelConfig
from hh_train.model.transformer import SandwichTransformer
from hh_train.training.dmd2.adapters import LowRank, SharedBase, adapter_parameters
from hh_train.training.dmd2.networks import FullCopies
from hh_train.training.ema import exponential_moving_average
from hh_train.training.optim import AdamWRecipe
from hh_train.types import LatentClip, PackedBatch

Make = Callable[..., LatentClip]


@pytest.fixture
def batch(make_clip: Make) -> PackedBatch:
    return pack([make_clip("a"), make_clip("b", audio=9, seed=1)], patch=(1, 2, 2))


@pytest.fixture
def shared(tiny_model: SandwichTransformer) -> SharedBase:
    """With adapters that do something: the student's is not the critic's."""
    made = SharedBase(deepcopy(tiny_model), LowRank(rank=4, alpha=8.0))
    generator = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return made


def test_fresh_adapters_change_nothing(tiny_model: SandwichTransformer, batch: PackedBatch) -> None:
    with torch.no_grad():
        expected = tiny_model(batch)
        networks = SharedBase(tiny_model, LowRank(rank=4))
        for network in (networks.student, networks.critic, networks.teacher):
            assert torch.equal(network(batch).video, expected.video)


def test_each_name_is_a_network_of_its_own(
    shared: SharedBase, tiny_model: SandwichTransformer, batch: PackedBatch
) -> None:
    with torch.no_grad():
        student, critic, teacher = (network(batch) for network in (shared.student, shared.critic, shared.teacher))
        again = shared.student(batch)
        expected = tiny_model(batch)
    assert torch.equal(again.video, student.video) and torch.equal(teacher.audio, expected.audio)
    for one, other in ((student, critic), (student, teacher), (critic, teacher)):
        assert (one.video - other.video).abs().max() > 1e-2


def test_the_exported_network_is_the_student(shared: SharedBase, batch: PackedBatch) -> None:
    """Also in the layers with an expert for each modality. Its keys are the released ones."""
    exported = shared.exported(None)
    with torch.no_grad():
        ours, theirs = exported(batch), shared.student(batch)
    torch.testing.assert_close(ours.video, theirs.video, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(ours.audio, theirs.audio, atol=1e-4, rtol=1e-3)
    fresh = SandwichTransformer(config=exported.config, compute_dtype="float32")
    assert exported.state_dict().keys() == fresh.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(shared.teacher_model()(batch).video, shared.teacher(batch).video)


def test_an_average_is_exported_instead(shared: SharedBase, batch: PackedBatch) -> None:
    average = exponential_moving_average(shared.averageable(), decay=0.9)
    average.update_parameters(shared.averageable())
    before = shared.exported(None)
    for parameter in shared.trained("student"):
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        assert torch.equal(shared.exported(average)(batch).video, before(batch).video)
        assert torch.equal(shared.exported(None)(batch).video, shared.teacher(batch).video)


@pytest.mark.parametrize("name", ["student", "critic"])
def test_only_the_adapters_of_the_name_learn(
    shared: SharedBase, batch: PackedBatch, name: Literal["student", "critic"]
) -> None:
    prediction = getattr(shared, name)(batch)
    (prediction.video.square().sum() + prediction.audio.square().sum()).backward()
    other = "critic" if name == "student" else "student"
    assert all(parameter.grad is not None for parameter in shared.trained(name))
    assert all(parameter.grad is None for parameter in shared.trained(other))
    assert all(p.grad is None for n, p in shared.transformer.named_parameters() if ".adapters." not in n)


def test_layers_are_computed_again_with_the_adapters_of_the_first_time(
    tiny_config: ModelConfig, batch: PackedBatch
) -> None:
    """Teacher and critic run between the student's forward and backward passes."""
    gradients = []
    for kind in ("none", "full", "selective"):
        torch.manual_seed(0)
        teacher = SandwichTransformer(config=tiny_config, compute_dtype="float32", activation_checkpointing=kind)
        networks = SharedBase(teacher, LowRank(rank=4))
        generator = torch.Generator().manual_seed(0)
        for parameter in networks.parameters():
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
        loss = networks.student(batch).video.square().sum()
        with torch.no_grad():
            networks.critic(batch)
            networks.teacher(batch)
        networks.before_backward("student")
        loss.backward()
        gradients.append([p.grad for p in networks.trained("student") if p.grad is not None])
        assert all(p.grad is None for p in networks.trained("critic"))
    for other in gradients[1:]:
        assert len(other) == len(gradients[0])
        for ours, theirs in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_what_is_saved_is_small(shared: SharedBase) -> None:
    """Adapters alone: rank (in + out) for every expert of every matrix product."""
    config = shared.transformer.config
    experts = [3 if index in config.mm_layers else 1 for index in range(config.num_layers)]
    shapes = [
        tuple(module.base.weight.shape) for layer in shared.transformer.layers for module in layer.modules()
        if hasattr(module, "base")
    ]  # fmt: skip
    per_layer = len(shapes) // config.num_layers
    expected = sum(4 * (rows + experts[i // per_layer] * columns) for i, (rows, columns) in enumerate(shapes))
    assert sum(p.numel() for p in shared.trained("student")) == expected
    assert {name.split(".")[0] for name in shared.state_dict()} == {"student_adapters", "critic_adapters"}


def test_targets(tiny_model: SandwichTransformer, batch: PackedBatch) -> None:
    networks = SharedBase(tiny_model, LowRank(rank=2, targets=["linear_qkv"]))
    assert len(networks.student_adapters) == tiny_model.config.num_layers
    assert {name.split("/")[-1] for name in networks.student_adapters} == {"linear_qkv"}


@pytest.mark.parametrize("fields", [{"rank": 0}, {"targets": ["embedder"]}, {"targets": []}])
def test_impossible_adapters(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="want a rank of 1 or more and targets among"):
        LowRank(**fields)


@pytest.mark.parametrize("rank", [1, 6])
def test_parameters_in_closed_form(tiny_model: SandwichTransformer, rank: int) -> None:
    networks = SharedBase(tiny_model, LowRank(rank=rank))
    assert adapter_parameters(tiny_model.config, rank) == sum(p.numel() for p in networks.trained("critic"))


def test_memory_is_a_fraction_of_three_copies(tiny_config: ModelConfig, batch: PackedBatch) -> None:
    """Of all tensors that live through a training step, gradients and Adam's moments included."""

    def run(networks: FullCopies | SharedBase) -> int:
        recipe = AdamWRecipe(learning_rate=1e-3)
        optimizers = [recipe.build(networks.trained(name), num_steps=2)[0] for name in ("student", "critic")]
        for name, optimizer in zip(("student", "critic"), optimizers, strict=True):
            networks.before_backward(name)
            getattr(networks, name)(batch).video.square().mean().backward()
            optimizer.step()
        held = {p.data_ptr(): p for p in [*networks.parameters(), *networks._frozen[0].parameters()]}
        moments = [v for o in optimizers for state in o.state.values() for v in state.values()]
        tensors = [*held.values(), *(p.grad for p in held.values() if p.grad is not None), *moments]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    wide = replace(tiny_config, hidden_size=128)
    copies, shared = (
        run(make(SandwichTransformer(config=wide, compute_dtype="float32")))
        for make in (FullCopies, lambda teacher: SharedBase(teacher, LowRank(rank=2)))
    )
    parameters = sum(p.numel() for p in SandwichTransformer(config=wide).parameters())
    unused = 0.02  # no loss on audio here: its output layers have neither gradients nor moments
    assert copies == pytest.approx((2 * 16 + 4) * parameters, rel=unused)
    assert shared == pytest.approx(4 * parameters + 2 * 16 * adapter_parameters(wide, 2), rel=unused)
    assert shared < 0.3 * copies
