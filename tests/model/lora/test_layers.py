"""One product and its adapters: what they compute, and that of the frozen product only its forward pass is needed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hh_train.model.lora import AdapterRecipe, AdapterSet, attach_adapter
from hh_train.model.lora.attach import adapted_linears
from hh_train.model.lora.layers import with_rows
from hh_train.model.modality import ModalityLinear
from hh_train.model.transformer import SandwichTransformer
from hh_train.types import PackedBatch

Dense = Callable[[SandwichTransformer, AdapterSet, dict[str, Tensor]], dict[str, Tensor]]
Plain = Callable[[dict[str, Tensor]], SandwichTransformer]


class ForwardOnly(nn.Module):
    """A frozen product that shows nothing of its weights."""

    def __init__(self, base: ModalityLinear) -> None:
        super().__init__()
        self.register_buffer("token", torch.zeros(()))
        self._hidden = [base]

    def forward(self, x: Tensor, counts: tuple[int, int, int]) -> Tensor:
        return self._hidden[0](x, counts)


def test_the_output_is_that_of_changed_weights(
    tiny_model: SandwichTransformer, recipe: AdapterRecipe, batch: PackedBatch, other_batch: PackedBatch,
    disturbed: Callable[..., AdapterSet], dense: Dense, plain: Plain,
) -> None:  # fmt: skip
    """Of rows that were changed one by one, as the layout of the released weights describes them."""
    base = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    adapters = disturbed(attach_adapter(tiny_model, "one", recipe))
    reference, before = plain(dense(tiny_model, adapters, base)), plain(base)
    for pack in (batch, other_batch):
        ours, wanted = tiny_model(pack), reference(pack)
        torch.testing.assert_close(ours.video, wanted.video, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.audio, wanted.audio, atol=1e-5, rtol=1e-5)
        reaches = recipe.rules[0].experts != ("audio",) or len(pack.audio) > 0
        assert ((ours.video - before(pack).video).abs().max() > 1e-2) == reaches


def test_gradients_are_those_of_changed_weights(
    tiny_model: SandwichTransformer, batch: PackedBatch, recipes: dict[str, AdapterRecipe],
    disturbed: Callable[..., AdapterSet],
) -> None:  # fmt: skip
    """Without adapters the gradient of a product's weights is G; that of up is scale G down^T, of down scale up^T G."""
    adapters = disturbed(attach_adapter(tiny_model, "one", recipes["packed"]))
    linear = "block.layers.1.attention.linear_proj"
    base = adapted_linears(tiny_model)[linear].base
    base.weight.requires_grad_(True)
    (tiny_model(batch).video.square().sum()).backward()
    adapter = dict(adapters.items())[linear]
    pair = adapter.pair(next(iter(adapter.cells)))
    torch.testing.assert_close(pair.up.grad, pair.scale * base.weight.grad @ pair.down.T, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(pair.down.grad, pair.scale * pair.up.T @ base.weight.grad, atol=1e-4, rtol=1e-4)


def test_only_the_forward_pass_of_the_base_is_used(
    tiny_model: SandwichTransformer, recipe: AdapterRecipe, batch: PackedBatch, disturbed: Callable[..., AdapterSet]
) -> None:
    for layer in tiny_model.layers:
        for half in (layer.attention, layer.mlp):
            for name, child in list(half.named_children()):
                if isinstance(child, ModalityLinear):
                    setattr(half, name, ForwardOnly(child))
    before = tiny_model(batch)
    adapters = attach_adapter(tiny_model, "one", recipe)
    torch.testing.assert_close(tiny_model(batch).video, before.video, atol=1e-5, rtol=1e-5)
    disturbed(adapters)
    loss = tiny_model(batch).video.square().sum()
    loss.backward()
    gradients = [p.grad for n, p in adapters.named_parameters() if "3/mlp" in n and "video" in n]
    assert gradients or "audio" in str(recipe)
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)


def test_products_in_bfloat16(
    tiny_model: SandwichTransformer, recipes: dict[str, AdapterRecipe], batch: PackedBatch, dense: Dense, plain: Plain,
    disturbed: Callable[..., AdapterSet],
) -> None:  # fmt: skip
    """Weights stay fp32; the products round."""
    base = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    model = SandwichTransformer(config=tiny_model.config, compute_dtype="bfloat16")
    model.load_state_dict(base)
    adapters = disturbed(attach_adapter(model, "one", recipes["parts"]))
    assert {parameter.dtype for parameter in adapters.parameters()} == {torch.float32}
    reference = plain(dense(model, adapters, base))(batch).video
    ours = model(batch).video
    assert 1e-4 < (ours - reference).norm() / reference.norm() < 0.1


@pytest.mark.parametrize("name", ["parts", "decomposed"])
def test_unadapted_rows_stay_bit_by_bit(
    name: str, tiny_model: SandwichTransformer, recipes: dict[str, AdapterRecipe], disturbed: Callable[..., AdapterSet]
) -> None:
    """In layer 0 there are no gate rows of the MLP; in `decomposed` none of the attention's gates is adapted."""
    adapters = disturbed(attach_adapter(tiny_model, "one", recipes[name]))
    linear = adapted_linears(tiny_model)["block.layers.1.attention.linear_qkv"]
    x = torch.randn(6, 32)
    change = linear(x, (6, 0, 0)) - linear.base(x, (6, 0, 0))
    assert change[:, :64].abs().min(0).values.max() > 0
    touched = change[:, 64:].abs().max() > 0
    assert bool(touched) == (name == "parts")
    assert dict(adapters.items())


def test_lengths_of_changed_rows(
    tiny_model: SandwichTransformer, recipes: dict[str, AdapterRecipe], disturbed: Callable[..., AdapterSet]
) -> None:
    """Found by forward passes alone, they are those of the matrices."""
    adapters = disturbed(attach_adapter(tiny_model, "one", recipes["decomposed"]))
    for linear, adapter in adapters.items():
        base = adapted_linears(tiny_model)[linear].base
        torch.testing.assert_close(adapter.base_norm, base.weight.norm(dim=1), atol=1e-5, rtol=1e-5)
        norms = adapter.changed_norms(base)
        for expert, weight in enumerate(base.weight.chunk(adapter.shape.num_experts)):
            down, up = adapter.factors(expert)
            torch.testing.assert_close(norms[expert], (weight + up @ down).norm(dim=1), atol=1e-5, rtol=1e-5)


def test_rows_in_their_places() -> None:
    given, ones, twos = torch.zeros(6, 2), torch.ones(2, 2), 2 * torch.ones(3, 2)
    placed = with_rows(given, [(slice(3, 6, 1), twos), (slice(0, 2, 1), ones)])
    assert placed[:, 0].tolist() == [1, 1, 0, 2, 2, 2]
    assert with_rows(given, [(slice(1, 6, 2), twos)])[:, 1].tolist() == [0, 2, 0, 2, 0, 2]
    assert with_rows(given[:, 0], [(slice(0, 6, 2), twos[:, 0])]).tolist() == [2, 0, 2, 0, 2, 0]
