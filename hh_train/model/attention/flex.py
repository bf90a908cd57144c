"""Attention by torch's FlexAttention: one call for the whole pack, whose mask skips blocks that no token sees.

Nothing is gathered, so that local attention over long clips costs no memory. Backward needs CUDA.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from hh_train.model.attention.pattern import AttentionPattern
from hh_train.types import ClipLayout

BLOCK = 128
"""Tokens to a side of the mask's blocks."""
MAX_FLEX_GRAPHS = 64
MaskFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
SEES_ALL = -1
"""Stands for the frame of audio and text."""


@dataclass(frozen=True, kw_only=True)
class FlexAttention:
    """`flex_attention` with a mask of clips and, for local attention, of latent frames."""

    compile_kernel: bool = True
    """Without compilation the scores are written out whole: for tests of the mask."""

    @property
    def name(self) -> str:
        return "torch FlexAttention"

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, pattern: AttentionPattern) -> Tensor:
        if not len(query):
            return torch.empty_like(query)
        device = query.device
        mask = pattern.derived(("flex", device), partial(flex_mask, pattern, device))
        attend = compiled_flex_attention() if self.compile_kernel else plain_flex_attention()
        q, k, v = (x.transpose(0, 1)[None] for x in (query, key, value))
        with torch._dynamo.config.patch(recompile_limit=MAX_FLEX_GRAPHS):
            attended: Tensor = attend(q, k, v, block_mask=mask, enable_gqa=query.shape[1] != key.shape[1])
        return attended[0].transpose(0, 1)


def plain_flex_attention() -> Callable[..., Any]:
    """With its scores written out."""
    return flex_attention


@cache
def compiled_flex_attention(backend: str = "inductor") -> Callable[..., Any]:
    """Compiled for any number of tokens: a graph per dtype, kind of mask, and with or without gradients.

    Beyond the limit of graphs it raises; without `fullgraph` it would go on with scores written out, unbearably large.
    """
    compiled: Callable[..., Any] = torch.compile(flex_attention, fullgraph=True, dynamic=True, backend=backend)
    return compiled


def flex_mask(pattern: AttentionPattern, device: torch.device) -> BlockMask:
    """The pattern as FlexAttention's mask.

    Which blocks are seen follows from how many tokens of each part (a frame, or a clip's audio and text) they hold;
    no mask of tokens by tokens is ever made.
    """
    with torch.inference_mode(False):  # autograd may save it in a later training step
        clip, frame = _token_labels(pattern)
        seen, whole = _block_occupancy(pattern, clip, frame)
        num_partly, partly = _block_lists(seen & ~whole, device)
        num_wholly, wholly = _block_lists(whole, device)
        mask = BlockMask.from_kv_blocks(
            kv_num_blocks=num_partly,
            kv_indices=partly,
            full_kv_num_blocks=num_wholly,
            full_kv_indices=wholly,
            BLOCK_SIZE=BLOCK,
            mask_mod=_mask_function(clip.to(device), frame.to(device), pattern.window if pattern.is_local else None),
            seq_lengths=(len(clip), len(clip)),
        )
    return mask


def _mask_function(clip: Int[Tensor, " N"], frame: Int[Tensor, " N"], window: int | None) -> MaskFunction:
    """Of batch, head, query and key. Lambdas, since FlexAttention traces it and wants it without decorators."""
    if window is None:
        return lambda _batch, _head, query, key: clip[query] == clip[key]
    return lambda _batch, _head, query, key: (
        (clip[query] == clip[key])
        & ((frame[query] == SEES_ALL) | (frame[key] == SEES_ALL) | ((frame[query] - frame[key]).abs() <= window))
    )


def _token_labels(pattern: AttentionPattern) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
    """The clip and the latent frame of every token, int32 on the CPU; audio and text have `SEES_ALL`."""
    clip = torch.repeat_interleave(torch.arange(len(pattern.layouts)), torch.tensor(pattern.lengths, dtype=torch.long))
    if not pattern.is_local:
        return clip.to(torch.int32), torch.zeros_like(clip, dtype=torch.int32)
    return clip.to(torch.int32), torch.cat([_frame_labels(layout) for layout in pattern.layouts])


def _frame_labels(layout: ClipLayout) -> Int[Tensor, " L"]:
    frames, height, width = layout.video
    video = torch.arange(frames, dtype=torch.int32).repeat_interleave(height * width)
    rest = torch.full((layout.audio + layout.text,), SEES_ALL, dtype=torch.int32)
    return torch.cat([video, rest])


def _block_occupancy(
    pattern: AttentionPattern, clip: Int[Tensor, " N"], frame: Int[Tensor, " N"]
) -> tuple[Bool[Tensor, "B B"], Bool[Tensor, "B B"]]:
    """Which blocks of queries by keys hold any pair that is seen, and which hold no other pair."""
    labels = torch.stack([clip, frame])
    parts, part_of_token = torch.unique_consecutive(labels, dim=1, return_inverse=True)
    num_blocks = -(-labels.shape[1] // BLOCK)
    block_of_token = torch.arange(labels.shape[1]) // BLOCK
    counts = torch.zeros(num_blocks, parts.shape[1], dtype=torch.float64)
    counts.index_put_(
        (block_of_token, part_of_token), torch.ones(labels.shape[1], dtype=torch.float64), accumulate=True
    )
    is_seen = _mask_function(parts[0], parts[1], pattern.window if pattern.is_local else None)
    index = torch.arange(parts.shape[1])
    zero = index[:1]
    pairs = counts @ is_seen(zero, zero, index[:, None], index[None]).double() @ counts.T
    return pairs > 0, pairs == BLOCK * BLOCK


def _block_lists(
    blocks: Bool[Tensor, "B B"], device: torch.device
) -> tuple[Int[Tensor, "1 1 B"], Int[Tensor, "1 1 B B"]]:
    """For each block of queries how many blocks of keys, and their indices followed by the others'."""
    indices = torch.argsort(blocks.to(torch.int8), dim=-1, descending=True, stable=True)
    return blocks.sum(-1).to(device, torch.int32)[None, None], indices.to(device, torch.int32)[None, None]
