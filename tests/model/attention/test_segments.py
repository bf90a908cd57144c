"""Every backend, gathering or not, against softmax written out in fp64: forward and backward, full and local."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from hh_train.model.attention import (
    AttentionBackend,
    FlashAttention,
    FlexAttention,
    PerClipAttention,
    VarlenAttention,
    attention_pattern,
    packed,
)
from hh_train.model.attention.choice import AttentionChoice
from hh_train.types import ClipLayout

SILENT = ClipLayout((6, 1, 2), 0, 3)
IMAGE = ClipLayout((1, 2, 3), 0, 4)
CLIP = ClipLayout((5, 2, 1), 7, 3)
SPEECH = ClipLayout((0, 0, 0), 5, 2)
WORDLESS = ClipLayout((4, 1, 1), 0, 0)
PACKS = {
    "one clip": (CLIP,),
    "equal clips": (CLIP, CLIP, CLIP),
    "all kinds": (SILENT, IMAGE, CLIP, CLIP, SPEECH, WORDLESS, CLIP),
}
WINDOWS = [None, 0, 1, 3, 11]
Reference = Callable[..., Tensor]


@pytest.fixture(params=PACKS)
def layouts(request: pytest.FixtureRequest) -> tuple[ClipLayout, ...]:
    return PACKS[request.param]


def draw(
    layouts: tuple[ClipLayout, ...],
    *,
    heads: tuple[int, int] = (4, 2),
    head_dim: int = 16,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> list[Tensor]:
    """Queries, keys and values, and a weight for each output."""
    torch.manual_seed(0)
    num_tokens = sum(layout.num_tokens for layout in layouts)
    sizes = (heads[0], heads[1], heads[1], heads[0])
    tensors = [torch.randn(num_tokens, count, head_dim).to(device, dtype) for count in sizes]
    return [tensor.requires_grad_() for tensor in tensors[:3]] + tensors[3:]


def largest_error(
    backend: AttentionBackend,
    reference: Reference,
    layouts: tuple[ClipLayout, ...],
    window: int | None,
    **kinds: object,
) -> tuple[float, float]:
    """Relative errors (in norm) of the output, and of the worst gradient."""
    query, key, value, weight = draw(layouts, **kinds)
    output = backend(query, key, value, attention_pattern(layouts, window))
    expected = reference(query, key, value, layouts, window)
    assert output.dtype == query.dtype
    gradients = torch.autograd.grad((output * weight).sum(), (query, key, value))
    wanted = torch.autograd.grad((expected * weight).sum(), (query, key, value))
    forward = float(((output.double() - expected).norm() / expected.norm()).detach())
    backward = max(
        float((got.double() - want.double()).norm() / want.double().norm())
        for got, want in zip(gradients, wanted, strict=True)
    )
    return forward, backward


@pytest.mark.parametrize("window", WINDOWS)
def test_per_clip_forward_and_backward(
    layouts: tuple[ClipLayout, ...], window: int | None, reference_attention: Reference
) -> None:
    assert max(largest_error(PerClipAttention(), reference_attention, layouts, window)) < 1e-6


@pytest.mark.parametrize("heads", [(4, 1), (4, 2), (4, 4), (5, 1)])
def test_key_value_heads_that_query_heads_share(heads: tuple[int, int], reference_attention: Reference) -> None:
    errors = largest_error(PerClipAttention(), reference_attention, PACKS["all kinds"], 1, heads=heads)
    assert max(errors) < 1e-6


@pytest.mark.parametrize("window", [None, 1])
@pytest.mark.parametrize("longest", [0, 1024])
def test_bfloat16_by_either_cpu_kernel(longest: int, window: int | None, reference_attention: Reference) -> None:
    backend = PerClipAttention(longest_written_out=longest)
    forward, backward = largest_error(backend, reference_attention, PACKS["all kinds"], window, dtype=torch.bfloat16)
    assert forward < 1e-2
    assert backward < 1.5e-2


@pytest.mark.parametrize("max_keys", [1, 40, 10_000])
def test_local_attention_by_runs_of_any_size(max_keys: int, reference_attention: Reference) -> None:
    backend = PerClipAttention(max_gathered_keys=max_keys)
    assert max(largest_error(backend, reference_attention, PACKS["all kinds"], 1)) < 1e-6


def test_local_attention_keeps_no_gathered_keys_for_the_backward_pass() -> None:
    layouts = (ClipLayout((30, 2, 2), 4, 4),)
    query, key, value, _ = draw(layouts)
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        PerClipAttention(max_gathered_keys=100)(query, key, value, attention_pattern(layouts, 5))
    assert sum(kept) == query.numel() + key.numel() + value.numel()


def test_a_clip_is_the_same_in_any_pack_and_no_gradient_leaves_it() -> None:
    layouts = PACKS["all kinds"]
    start = sum(layout.num_tokens for layout in layouts[:2])
    end = start + CLIP.num_tokens
    query, key, value, weight = draw(layouts)
    output = PerClipAttention()(query, key, value, attention_pattern(layouts, 1))
    alone = PerClipAttention()(query[start:end], key[start:end], value[start:end], attention_pattern((CLIP,), 1))
    torch.testing.assert_close(output[start:end], alone, atol=1e-6, rtol=0)
    for gradient in torch.autograd.grad((output[start:end] * weight[start:end]).sum(), (query, key, value)):
        assert gradient[:start].abs().sum() + gradient[end:].abs().sum() == 0
        assert gradient[start:end].abs().sum() > 0


def test_a_pattern_met_in_inference_mode_can_be_trained_on(fake_flash: dict[str, list[int]]) -> None:
    layouts = (ClipLayout((3, 1, 1), 2, 1),)
    query, key, value, _ = draw(layouts)
    backend = FlashAttention(version=2)
    with torch.inference_mode():
        backend(query, key, value, attention_pattern(layouts))
    backend(query, key, value, attention_pattern(layouts)).sum().backward()
    assert query.grad is not None
    starts = attention_pattern(layouts).runs(1)[0].boundaries(torch.device("cpu"))
    assert not any(tensor.is_inference() for tensor in starts)


def segment_by_segment(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int) -> Tensor:
    """What a varlen kernel computes; it checks what the real ones require."""
    for boundaries, tokens, longest in ((cu_q, len(q), max_q), (cu_k, len(k), max_k)):
        assert boundaries.dtype == torch.int32
        assert boundaries.is_contiguous()
        assert int(boundaries[-1]) == tokens
        assert longest == int(boundaries.diff().max())
        assert int(boundaries.diff().min()) > 0
    assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
    repeats = q.shape[1] // k.shape[1]
    outputs = []
    for i in range(len(cu_q) - 1):
        rows, columns = slice(int(cu_q[i]), int(cu_q[i + 1])), slice(int(cu_k[i]), int(cu_k[i + 1]))
        keys, values = k[columns].repeat_interleave(repeats, 1), v[columns].repeat_interleave(repeats, 1)
        scores = torch.einsum("ihd,jhd->hij", q[rows], keys) * q.shape[-1] ** -0.5
        outputs.append(torch.einsum("hij,jhd->ihd", scores.softmax(-1), values))
    return torch.cat(outputs)


FLASH_PARAMETERS = {
    2: "q k v cu_seqlens_q cu_seqlens_k max_seqlen_q max_seqlen_k dropout_p softmax_scale causal window_size softcap "
    "alibi_slopes deterministic return_attn_probs block_table",
    3: "q k v cu_seqlens_q cu_seqlens_k max_seqlen_q max_seqlen_k seqused_q seqused_k softmax_scale causal qv "
    "q_descale k_descale v_descale window_size attention_chunk softcap num_splits pack_gqa deterministic sm_margin "
    "return_attn_probs",
    4: "q k v cu_seqlens_q cu_seqlens_k max_seqlen_q max_seqlen_k seqused_q seqused_k page_table softmax_scale causal "
    "window_size learnable_sink softcap num_splits pack_gqa deterministic score_mod mask_mod block_sparse_tensors "
    "cu_total_m_blocks cu_total_n_blocks aux_tensors return_lse",
}
"""In order, of `flash_attn_varlen_func` in each version of flash-attn."""


@pytest.fixture
def fake_flash(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """Stands for all versions of flash-attn; tells how many keys each call got."""
    calls: dict[str, list[int]] = {"keys": []}

    def fake(version: int, *args: object, **kwargs: object) -> Tensor | tuple[Tensor, None]:
        names = FLASH_PARAMETERS[version].split()
        given = dict(zip(names, args, strict=False)) | kwargs
        assert list(given) == names[:7]
        calls["keys"].append(len(given["k"]))
        output = segment_by_segment(*given.values())
        return (output, None) if version == 4 else output

    monkeypatch.setattr(packed, "flash_function", lambda version: partial(fake, version))
    return calls


@pytest.mark.parametrize("window", WINDOWS)
def test_what_flash_attention_is_given(
    layouts: tuple[ClipLayout, ...],
    window: int | None,
    fake_flash: dict[str, list[int]],
    reference_attention: Reference,
) -> None:
    backend = FlashAttention(version=2, max_gathered_keys=30)
    assert max(largest_error(backend, reference_attention, layouts, window)) < 1e-6
    if not attention_pattern(layouts, window).is_local:
        assert fake_flash["keys"] == [sum(layout.num_tokens for layout in layouts)]
    else:
        longest = max(segment.num_keys for segment in attention_pattern(layouts, window).segments)
        assert max(fake_flash["keys"]) <= max(30, longest)


@pytest.mark.parametrize("version", [2, 3, 4])
def test_every_version_of_flash_attention(
    version: packed.FlashVersion, fake_flash: dict[str, list[int]], reference_attention: Reference
) -> None:
    assert max(largest_error(FlashAttention(version=version), reference_attention, PACKS["all kinds"], 1)) < 1e-6
    assert fake_flash["keys"]


@pytest.mark.parametrize("heads", [(4, 2), (4, 4)])
@pytest.mark.parametrize("window", [None, 1])
def test_what_varlen_attention_is_given(
    window: int | None,
    heads: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
    reference_attention: Reference,
) -> None:
    def fake(*args: object, **kwargs: object) -> Tensor:
        given = inspect.signature(varlen_attn).bind(*args, **kwargs).arguments
        assert given.pop("enable_gqa") == (heads[0] != heads[1])
        names = ("query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k")
        assert set(given) == set(names)
        return segment_by_segment(*(given[name] for name in names))

    monkeypatch.setattr(packed, "varlen_attn", fake)
    errors = largest_error(VarlenAttention(), reference_attention, PACKS["all kinds"], window, heads=heads)
    assert max(errors) < 1e-6


def test_an_empty_pack() -> None:
    empty = torch.zeros(0, 2, 16)
    for backend in (PerClipAttention(), VarlenAttention(), FlashAttention(version=2), FlexAttention()):
        assert backend(empty, empty, empty, attention_pattern((), 1)).shape == (0, 2, 16)


@pytest.mark.gpu
@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("name", ["sdpa", "varlen", "flash", "flex", "auto"])
def test_on_a_gpu(
    name: str, window: int | None, layouts: tuple[ClipLayout, ...], reference_attention: Reference
) -> None:
    kinds = {"dtype": torch.bfloat16, "head_dim": 64, "device": "cuda", "heads": (10, 2)}
    choice = AttentionChoice(name=name)
    try:
        choice.require(dtype=torch.bfloat16, head_dim=64, device=torch.device("cuda"))
    except ValueError as missing:
        pytest.skip(str(missing))
    forward, backward = largest_error(choice, reference_attention, layouts, window, **kinds)
    assert forward < 1e-2
    assert backward < 2e-2
