"""Student, critic and teacher as three networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from hh_train.data.packing import pack
from hh_train.model.config import ModelConfig
from hh_train.model.transformer import SandwichTransformer
from hh_train.training.dmd2.networks import FullCopies
from hh_train.types import LatentClip

Make = Callable[..., LatentClip]


def test_copies_start_from_the_teacher_and_the_teacher_stays_out_of_checkpoints(
    tiny_model: SandwichTransformer, make_clip: Make
) -> None:
    networks = FullCopies(tiny_model)
    batch = pack([make_clip("a")], patch=(1, 2, 2))
    with torch.no_grad():
        student, critic, teacher = (network(batch) for network in (networks.student, networks.critic, networks.teacher))
    assert torch.equal(student.video, teacher.video) and torch.equal(critic.audio, teacher.audio)
    assert {name.split(".")[0] for name in networks.state_dict()} == {"student", "critic"}
    assert not any(parameter.requires_grad for parameter in networks.teacher.parameters())
    assert all(parameter.requires_grad for parameter in networks.trained("student") + networks.trained("critic"))


def test_another_start_is_the_students_alone(tiny_model: SandwichTransformer, tiny_config: ModelConfig) -> None:
    start = SandwichTransformer(config=tiny_config, compute_dtype="float32")
    networks = FullCopies(tiny_model, start)
    key = "block.layers.1.mlp.down_proj.weight"
    assert torch.equal(networks.student.state_dict()[key], start.state_dict()[key])
    assert torch.equal(networks.critic.state_dict()[key], tiny_model.state_dict()[key])


def test_a_teacher_in_half_precision_has_students_in_full(tiny_model: SandwichTransformer) -> None:
    half = tiny_model.state_dict()["block.layers.1.mlp.down_proj.weight"].bfloat16()
    tiny_model.block.layers[1].mlp.down_proj.weight.data = half
    networks = FullCopies(tiny_model)
    assert {parameter.dtype for parameter in networks.parameters()} == {torch.float32}
    assert networks.teacher.block.layers[1].mlp.down_proj.weight.dtype == torch.bfloat16


def test_another_architecture(tiny_model: SandwichTransformer, tiny_config: ModelConfig) -> None:
    other = SandwichTransformer(config=replace(tiny_config, num_layers=3, mm_layers=(0, 2)), compute_dtype="float32")
    with pytest.raises(ValueError, match=r"num_layers: 4 and 3; mm_layers: \(0, 3\) and \(0, 2\)"):
        FullCopies(tiny_model, other)


@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_hidden_states_are_those_of_the_layer_grouped_by_modality(
    tiny_model: SandwichTransformer, make_clip: Make, layer: int
) -> None:
    """Two clips of different sizes: sequence order and groups differ. Another audio changes nothing before it."""
    clips = [make_clip("a"), make_clip("b", audio=9, seed=1)]
    batch = pack(clips, patch=(1, 2, 2))
    networks = FullCopies(tiny_model)
    x, grouped, context = networks.critic.adapter(batch), True, networks.critic.context(batch)
    for one in networks.critic.layers[: layer + 1]:
        if one.per_modality != grouped:
            x = x[context.group_index if one.per_modality else context.sequence_index]
            grouped = one.per_modality
        x = one(x, context)
    expected = x if grouped else x[context.group_index]
    read = networks.hidden_states("critic", [layer])
    torch.testing.assert_close(read(batch)[0], expected)
    assert not networks.critic.layers[layer]._forward_hooks


def test_layers_are_read_in_the_order_asked_for(tiny_model: SandwichTransformer, make_clip: Make) -> None:
    batch = pack([make_clip("a")], patch=(1, 2, 2))
    networks = FullCopies(tiny_model)
    first, last = networks.hidden_states("teacher", [3, 1])(batch)
    torch.testing.assert_close(first, networks.hidden_states("teacher", [3])(batch)[0])
    torch.testing.assert_close(last, networks.hidden_states("teacher", [1])(batch)[0])
