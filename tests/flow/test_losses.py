"""Means over the tokens that count."""

from __future__ import annotations

import torch

from hh_train.flow.losses import ClipSums, squared_error


def test_sums_per_clip_by_hand() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 8.0])
    sums = ClipSums.over_tokens(
        values, torch.tensor([True, False, True, True]), torch.tensor([0, 0, 1, 1]), num_clips=3
    )
    assert sums.total.tolist() == [1, 12, 0] and sums.count.tolist() == [1, 2, 0]
    torch.testing.assert_close(sums.mean(), torch.tensor(13 / 3))


def test_no_tokens_is_no_loss() -> None:
    empty = ClipSums.over_tokens(
        torch.zeros(0), torch.zeros(0, dtype=torch.bool), torch.zeros(0, dtype=torch.long), num_clips=1
    )
    assert empty.mean() == 0


def test_squared_error_in_fp32() -> None:
    errors = squared_error(torch.tensor([[3.0, 1.0]]).bfloat16(), torch.tensor([[1.0, 1.0]]))
    assert errors.dtype == torch.float32 and errors.tolist() == [2.0]
