"""FlexAttention's mask: block by block against torch's own construction, and its forward pass on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask

from hh_train.model.attention import FlexAttention, attention_pattern, flex
from hh_train.model.attention.flex import flex_mask
from hh_train.types import ClipLayout

CPU = torch.device("cpu")
SHORT = (ClipLayout((5, 2, 1), 7, 3), ClipLayout((1, 2, 3), 0, 4), ClipLayout((0, 0, 0), 5, 2))
LONG = (
    ClipLayout((9, 8, 10), 40, 30),
    ClipLayout((1, 16, 16), 0, 20),
    ClipLayout((4, 4, 4), 0, 8),
    ClipLayout((0, 0, 0), 120, 9),
)


@pytest.mark.parametrize("layouts", [SHORT, LONG])
@pytest.mark.parametrize("window", [None, 0, 1, 2])
def test_blocks_are_those_of_the_dense_mask(layouts: tuple[ClipLayout, ...], window: int | None) -> None:
    mask = flex_mask(attention_pattern(layouts, window), CPU)
    num_tokens = sum(layout.num_tokens for layout in layouts)
    wanted = create_block_mask(mask.mask_mod, None, None, num_tokens, num_tokens, device="cpu")
    assert mask.shape == wanted.shape == (1, 1, num_tokens, num_tokens)
    assert torch.equal(mask.to_dense(), wanted.to_dense())
    for name in ("kv", "full_kv", "q", "full_q"):
        counts = f"{name}_num_blocks"
        assert torch.equal(getattr(mask, counts), getattr(wanted, counts)), name
    for row in range(mask.kv_indices.shape[2]):
        for indices, counts in (("kv_indices", "kv_num_blocks"), ("full_kv_indices", "full_kv_num_blocks")):
            used = int(getattr(mask, counts)[0, 0, row])
            assert torch.equal(getattr(mask, indices)[0, 0, row, :used], getattr(wanted, indices)[0, 0, row, :used])


@pytest.mark.parametrize("window", [None, 1])
def test_the_mask_skips_and_spares_blocks(window: int | None) -> None:
    mask = flex_mask(attention_pattern(LONG, window), CPU)
    assert int(mask.full_kv_num_blocks.sum()) > 0
    assert mask.sparsity() > (20 if window is None else 25)


def test_the_mask_function_is_the_rule(visible_pairs: Callable[..., Tensor]) -> None:
    for window in (None, 0, 1, 2):
        mask = flex_mask(attention_pattern(SHORT, window), CPU)
        token, zero = torch.arange(37), torch.zeros((), dtype=torch.long)
        assert torch.equal(mask.mask_mod(zero, zero, token[:, None], token[None]), visible_pairs(SHORT, window))


def test_a_clip_of_1080p_needs_no_mask_of_tokens_by_tokens() -> None:
    layout = ClipLayout((32, 34, 60), 125, 300)
    mask = flex_mask(attention_pattern((layout,), 11), CPU)
    pairs = attention_pattern((layout,), 11).num_pairs / layout.num_tokens**2
    assert 1 - mask.sparsity() / 100 == pytest.approx(pairs, rel=0.02)


@pytest.mark.filterwarnings("ignore:.*called without torch.compile")
@pytest.mark.parametrize("heads", [(4, 2), (4, 4), (5, 1)])
@pytest.mark.parametrize("layouts", [SHORT, LONG[1:]])
@pytest.mark.parametrize("window", [None, 1])
def test_forward(
    layouts: tuple[ClipLayout, ...],
    window: int | None,
    heads: tuple[int, int],
    reference_attention: Callable[..., Tensor],
) -> None:
    torch.manual_seed(0)
    num_tokens = sum(layout.num_tokens for layout in layouts)
    query, key, value = (torch.randn(num_tokens, count, 16) for count in (heads[0], heads[1], heads[1]))
    output = FlexAttention(compile_kernel=False)(query, key, value, attention_pattern(layouts, window))
    expected = reference_attention(query, key, value, layouts, window)
    torch.testing.assert_close(output.double(), expected, atol=1e-5, rtol=1e-5)


def test_packs_of_any_length_share_a_graph(
    monkeypatch: pytest.MonkeyPatch, reference_attention: Callable[..., Tensor]
) -> None:
    compiled = flex.compiled_flex_attention("aot_eager")  # the CPU's own backend of it fails to compile in torch 2.13
    monkeypatch.setattr(flex, "compiled_flex_attention", lambda: compiled)
    torch._dynamo.utils.counters.clear()
    for window in (None, 1):
        for layouts in (LONG[1:], LONG[1:3], (*LONG[1:], *SHORT), (LONG[1], LONG[1]), (*LONG[1:3], *SHORT)):
            query = torch.randn(sum(layout.num_tokens for layout in layouts), 2, 16)
            output = FlexAttention()(query, query[:, :1], query[:, 1:], attention_pattern(layouts, window))
            expected = reference_attention(query, query[:, :1], query[:, 1:], layouts, window)
            torch.testing.assert_close(output.double(), expected, atol=1e-5, rtol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_the_mask_is_made_once_and_can_be_trained_on_after_inference_mode() -> None:
    pattern = attention_pattern(SHORT, 1)
    query = torch.randn(37, 1, 16)
    with torch.inference_mode():
        FlexAttention(compile_kernel=False)(query, query, query, pattern)
    mask = pattern.derived(("flex", CPU), lambda: pytest.fail("the mask was not kept"))
    assert not mask.kv_indices.is_inference()
