"""What a dry run says a pass takes, against what the allocator hands out in a real one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from hh_train.data.packing import pack
from hh_train.model.attention import PerClipAttention, attention_pattern
from hh_train.model.config import ModelConfig
from hh_train.model.rope import coordinates
from hh_train.model.size import parameter_counts
from hh_train.model.transformer import SandwichTransformer
from hh_train.training.dry_run import FusedAttention, LiveBytes, evaluation_peak, training_pass
from hh_train.types import ClipLayout, LatentClip, PackedBatch

NARROW = ModelConfig(
    num_layers=6, hidden_size=256, head_dim=64, num_query_groups=2, video_in_channels=192, audio_in_channels=64,
    text_in_channels=96, mm_layers=(0, 5), gelu7_layers=(0,),
)  # fmt: skip
WIDE = replace(NARROW, num_layers=4, hidden_size=768, head_dim=128, num_query_groups=3, mm_layers=(0, 3))
KINDS = ("none", "selective", "full")
LONG = LatentClip(key="long", video=torch.zeros(48, 10, 8, 8), audio=torch.zeros(37, 64), text=torch.zeros(20, 96))
SHORT = LatentClip(key="short", video=torch.zeros(48, 5, 4, 4), audio=torch.zeros(17, 64), text=torch.zeros(9, 96))
SILENT = replace(SHORT, audio=None)


def loss_of(model: SandwichTransformer, batch: PackedBatch) -> Tensor:
    prediction = model(batch)
    return prediction.video.square().mean() + prediction.audio.square().mean()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("config", "compute_dtype", "clips"),
    [
        (NARROW, "bfloat16", (LONG, LONG, LONG, SHORT, SILENT)),
        (NARROW, "float32", (SHORT, SHORT)),
        (WIDE, "bfloat16", (LONG, SHORT)),
    ],
    ids=["narrow", "narrow in fp32", "wide"],
)
def test_training_takes_what_was_predicted(
    config: ModelConfig, compute_dtype: str, clips: tuple[LatentClip, ...], kind: str, allocations: Callable[..., Any]
) -> None:
    """Within 5 %; the goal is 15 %."""
    make = partial(SandwichTransformer, config=config, compute_dtype=compute_dtype, activation_checkpointing=kind)
    batch = pack(clips, patch=config.patch)
    model = make()
    loss_of(model, batch).backward()  # fills caches
    model.zero_grad()
    measured = allocations(lambda: loss_of(model, batch))
    predicted = training_pass(make, batch.layouts, attention=PerClipAttention())
    assert predicted.kept == pytest.approx(measured.kept, rel=0.05)
    assert max(predicted.forward_peak, predicted.backward_peak) == pytest.approx(measured.peak, rel=0.05)


def test_evaluation_takes_what_was_predicted(memory_events: Callable[..., Any]) -> None:
    make = partial(SandwichTransformer, config=NARROW)
    batch = pack([LONG] * 4, patch=NARROW.patch)
    model = make().eval()
    with torch.no_grad():
        model(batch)
        levels, _ = memory_events(lambda: model(batch))
    assert evaluation_peak(make, batch.layouts, attention=PerClipAttention()) == pytest.approx(max(levels), rel=0.05)


def test_gradients_are_counted_where_they_stay() -> None:
    layouts = (ClipLayout((2, 2, 2), 5, 3),)
    make = partial(SandwichTransformer, config=WIDE, activation_checkpointing="full")
    gradients = 4 * parameter_counts(WIDE).total
    kept, handed_on = (training_pass(make, layouts, keeps_gradients=keeps).backward_peak for keeps in (True, False))
    assert gradients < kept < 1.5 * gradients
    assert handed_on < 0.5 * gradients


def test_fused_attention_keeps_no_scores() -> None:
    """Queries, keys, values, output and the log-sum-exp: what is kept grows with the tokens, not with their square."""
    config = replace(NARROW, num_layers=1, mm_layers=(), gelu7_layers=())
    one, two = (
        training_pass(
            partial(SandwichTransformer, config=config),
            (ClipLayout((frames, 8, 14), 0, 16),),
            attention=FusedAttention(),
        ).kept
        for frames in (100, 200)
    )
    weights = 2 * (parameter_counts(config).shared_layers - 2 * 256 - 2 * 64)  # copies in bf16
    assert two - weights == pytest.approx(2 * (one - weights), rel=0.01)
    q, k, v = torch.zeros(10, 4, 16), torch.zeros(10, 2, 16), torch.zeros(10, 2, 16)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x), x)[1], lambda x: x):
        FusedAttention()(q.requires_grad_(), k, v, attention_pattern((ClipLayout((0, 0, 0), 10, 0),)))
    assert sum(tensor.numel() for tensor in kept) == 2 * 10 * 4 * 16 + 2 * 10 * 2 * 16 + 10 * 4


def test_the_weights_are_never_allocated(memory_events: Callable[..., Any]) -> None:
    """16 GiB of weights, on any machine."""
    huge = replace(NARROW, num_layers=12, hidden_size=5120, head_dim=128, num_query_groups=8)
    assert 4 * parameter_counts(huge).total > 16 * 2**30
    levels, _ = memory_events(
        lambda: training_pass(partial(SandwichTransformer, config=huge), (ClipLayout((3, 2, 2), 9, 4),))
    )
    assert max(levels, default=0) < 2**20


def test_nothing_without_storage_stays_in_caches(
    make_clip: Callable[..., LatentClip], tiny_config: ModelConfig
) -> None:
    batch = pack([make_clip("a", video=(7, 4, 2), audio=25, text=11)], patch=(1, 2, 2))
    training_pass(partial(SandwichTransformer, config=tiny_config), batch.layouts)
    assert type(coordinates(batch.layouts, tiny_config.coordinates)) is Tensor
    assert SandwichTransformer(config=tiny_config)(batch).video.isfinite().all()


def test_live_bytes_follow_storages() -> None:
    given = torch.zeros(1000)
    with LiveBytes(known=[given]) as live:
        view = given.view(10, 100)
        assert live.live == 0
        doubled = view * 2
        halves = doubled.chunk(2)
        assert live.live == 4000
        del doubled
        assert live.live == 4000  # the halves are views of it
        del halves
        assert (live.live, live.peak) == (0, 4000)
        live.restart_peak()
        assert live.peak == 0
