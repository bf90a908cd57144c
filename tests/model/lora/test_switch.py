"""What is computed again in the backward pass is computed with the adapters of the forward pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from hh_train.model.config import ModelConfig
from hh_train.model.lora import AdaptedNetwork, AdapterRecipe, AdapterSet, activate, attach_adapter
from hh_train.model.lora.switch import AdapterSwitch
from hh_train.model.transformer import SandwichTransformer
from hh_train.types import PackedBatch

Disturbed = Callable[..., AdapterSet]


def two_networks(
    config: ModelConfig, kind: str, disturbed: Disturbed, recipe: AdapterRecipe
) -> tuple[SandwichTransformer, AdapterSet, AdapterSet]:
    torch.manual_seed(0)
    model = SandwichTransformer(config=config, compute_dtype="float32", activation_checkpointing=kind).train()
    sets = [disturbed(attach_adapter(model, name, recipe), seed) for seed, name in enumerate(("student", "critic"))]
    return model, sets[0], sets[1]


@pytest.mark.parametrize("kind", ["full", "selective"])
@pytest.mark.parametrize("name", ["parts", "decomposed"])
def test_gradients_do_not_depend_on_what_is_switched_on_meanwhile(
    name: str, kind: str, tiny_config: ModelConfig, disturbed: Disturbed, recipes: dict[str, AdapterRecipe],
    batch: PackedBatch,
) -> None:  # fmt: skip
    """Student, critic on what it made, teacher on what that made: one backward pass through all three."""
    gradients = []
    for checkpointing in ("none", kind):
        model, student, critic = two_networks(tiny_config, checkpointing, disturbed, recipes[name])
        networks = [AdaptedNetwork(model, weights) for weights in ({"student": 1.0}, {"critic": 0.7}, {})]
        first = networks[0](batch)
        second = networks[1](batch.with_latents(first.video, batch.audio))
        third = networks[2](batch.with_latents(second.video, second.audio))
        activate(model, {"critic": 0.5})
        (third.video.square().mean() + first.audio.square().mean() + second.audio.square().mean()).backward()
        assert model.block.layers[0].attention.linear_qkv.switch.weights == {"critic": 0.5}
        gradients.append([parameter.grad for made in (student, critic) for parameter in made.parameters()])
    assert len(gradients[0]) > 100
    for kept, again in zip(*gradients, strict=True):
        assert (kept is None) == (again is None)
        if kept is not None:
            torch.testing.assert_close(again, kept, atol=1e-5, rtol=1e-4)
    assert sum(kept is not None and bool(kept.abs().max() > 1e-6) for kept in gradients[0]) > 100


def test_gradients_that_start_in_the_middle(
    tiny_config: ModelConfig, disturbed: Disturbed, recipes: dict[str, AdapterRecipe], batch: PackedBatch
) -> None:
    """As those of a discriminator on a layer's output."""
    gradients = []
    for checkpointing in ("none", "full"):
        model, student, _ = two_networks(tiny_config, checkpointing, disturbed, recipes["parts"])
        found: list[torch.Tensor] = []
        handle = model.layers[1].register_forward_hook(lambda *given, found=found: found.append(given[2]))
        AdaptedNetwork(model, {"student": 1.0})(batch)
        handle.remove()
        activate(model, {})
        found[0].square().sum().backward()
        gradients.append([parameter.grad for parameter in student.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 20
    for kept, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, kept, atol=1e-5, rtol=1e-4)


def test_after_a_failed_backward_pass_the_next_setting_counts() -> None:
    switch = AdapterSwitch()
    switch.set({"student": 1.0})
    output = torch.ones(2, requires_grad=True) * 2
    switch.remember(torch.nn.Identity(), (), output)
    switch.set({"critic": 1.0})

    def fail(gradient: torch.Tensor) -> None:
        assert switch.weights == {"student": 1.0}
        raise RuntimeError("out of memory")

    output.register_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        output.sum().backward()
    switch.set({"teacher": 0.5})
    assert switch.weights == {"teacher": 0.5}
    (torch.ones(2, requires_grad=True) * 2).sum().backward()
    assert switch.weights == {"teacher": 0.5}
