"""Who sees whom, as ranges, against the dense mask of the same rule."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hh_train.model.attention import AttentionPattern, attention_pattern
from hh_train.types import ClipLayout

CLIP = ClipLayout((5, 2, 1), 7, 3)

layouts = st.lists(
    st.builds(
        ClipLayout,
        st.tuples(st.integers(1, 6), st.integers(1, 2), st.integers(1, 3)) | st.just((0, 0, 0)),
        st.integers(0, 4),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=4,
).map(tuple)


def dense(pattern: AttentionPattern) -> Tensor:
    num_tokens = sum(pattern.lengths)
    mask = torch.zeros(num_tokens, num_tokens, dtype=torch.bool)
    for segment in pattern.segments:
        for start, end in segment.keys:
            mask[slice(*segment.queries), start:end] = True
    return mask


@given(layouts=layouts, window=st.none() | st.integers(0, 6))
def test_segments_are_the_dense_mask(
    visible_pairs: Callable[..., Tensor], layouts: tuple[ClipLayout, ...], window: int | None
) -> None:
    wanted = visible_pairs(layouts, window)
    pattern = attention_pattern(layouts, window)
    assert torch.equal(dense(pattern), wanted)
    assert pattern.num_pairs == int(wanted.sum())


@given(layouts=layouts, window=st.integers(0, 3), max_keys=st.integers(1, 60))
def test_runs_hold_every_query_once_and_few_keys(layouts: tuple[ClipLayout, ...], window: int, max_keys: int) -> None:
    pattern = attention_pattern(layouts, window)
    runs = pattern.runs(max_keys)
    ends = [0, *(run.queries[1] for run in runs)]
    assert [run.queries[0] for run in runs] == ends[:-1]
    assert ends[-1] == sum(pattern.lengths)
    tokens = torch.arange(sum(pattern.lengths)).double()[:, None, None]
    for run in runs:
        assert len(run.gather_keys(tokens)) == run.num_keys
        assert not pattern.is_local or run.num_keys <= max_keys or len(run.query_lengths) == 1


def test_the_rule_by_hand() -> None:
    pattern = attention_pattern((CLIP, CLIP), 1)
    frames = pattern.segments[:5]
    assert [segment.queries for segment in frames] == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10)]
    assert [segment.keys for segment in frames] == [
        ((0, 4), (10, 20)), ((0, 6), (10, 20)), ((2, 8), (10, 20)), ((4, 20),), ((6, 20),),
    ]  # fmt: skip
    assert pattern.segments[5].queries == (10, 20)
    assert pattern.segments[5].keys == ((0, 20),)
    assert pattern.segments[6].keys == ((20, 24), (30, 40))


def test_the_released_window_at_1080p_sees_23_of_32_frames() -> None:
    layout = ClipLayout((32, 34, 60), 125, 300)
    pattern = attention_pattern((layout,), 11)
    lengths = [segment.num_keys for segment in pattern.segments]
    assert max(lengths[:-1]) == 23 * 2040 + 425
    assert max(run.num_keys for run in pattern.runs(131_072)) <= 131_072
    seen = sum(min(frame + 12, 32) - max(frame - 11, 0) for frame in range(32))
    assert pattern.num_pairs == 2040**2 * seen + 2 * 425 * 65_280 + 425**2


def test_a_window_that_hides_nothing_is_full_attention() -> None:
    assert attention_pattern((CLIP,), 4) is attention_pattern((CLIP,))
    assert attention_pattern((CLIP,), 3) is not attention_pattern((CLIP,))
    assert attention_pattern((CLIP,), 3) is attention_pattern((ClipLayout((5, 2, 1), 7, 3),), 3)


def test_full_attention_gathers_nothing() -> None:
    (run,) = attention_pattern((CLIP, CLIP)).runs(1)
    tokens = torch.randn(40, 1, 8)
    assert run.gather_keys(tokens).data_ptr() == tokens.data_ptr()


def test_boundaries_are_made_once() -> None:
    (run,) = attention_pattern((CLIP, CLIP)).runs(1)
    first, second = run.boundaries(torch.device("cpu")), run.boundaries(torch.device("cpu"))
    assert first[0] is second[0]
    assert first[0].tolist() == [0, 20, 40]


def test_gradients_of_gathered_keys_add_up() -> None:
    pattern = attention_pattern((CLIP,), 1)
    (run,) = pattern.runs(10_000)
    total = torch.zeros(20, 1, 1)
    run.add_key_gradients(total, torch.ones(run.num_keys, 1, 1, dtype=torch.bfloat16))
    ranges = [part for segment in pattern.segments for part in segment.keys]
    assert total.flatten().tolist() == [sum(start <= token < end for start, end in ranges) for token in range(20)]


def test_a_negative_window_is_refused() -> None:
    with pytest.raises(ValueError, match="got a window of -1"):
        AttentionPattern((CLIP,), -1)
